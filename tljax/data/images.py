"""Image files to uint8 arrays: any format, size and mode that Pillow reads."""

import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

from tljax.errors import InputError


def read(path: pathlib.Path, size: int, resize: int) -> np.ndarray:
  """Returns the image (size, size, 3) uint8, in RGB.

  The shorter side is resized to `resize` (bilinear, antialiased), then the centre is
  cropped: torchvision's Resize and CenterCrop of a Pillow image, pixel by pixel.
  EXIF rotation is applied; of an animation the first frame is taken.

  Raises:
    InputError: the file cannot be decoded whole; it is named.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(path) as image:
        image.load()
        return evaluate(to_rgb(ImageOps.exif_transpose(image)), size, resize)
  except (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
  ) as error:
    reason = str(error).split('\n')[0].replace(str(path), 'the file')
    raise InputError(
      f'{path}: cannot be read as an image ({reason}); '
      'remove it, or leave such files out by --skip-corrupt'
    ) from error


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts any mode; 16-bit grey is scaled to 8 bits, not clipped."""
  if image.mode.startswith('I'):
    image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
  return image.convert('RGB')


def evaluate(image: Image.Image, size: int, resize: int) -> np.ndarray:
  """Resizes the shorter side to `resize` and crops the centre `size` square."""
  width, height = image.size
  short, long = min(width, height), max(width, height)
  other = int(resize * long / short)
  shape = (resize, other) if width <= height else (other, resize)
  image = image.resize(shape, Image.Resampling.BILINEAR)
  left, top = (int(round((side - size) / 2.0)) for side in image.size)
  return np.asarray(image.crop((left, top, left + size, top + size)))
