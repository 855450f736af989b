"""Images to uint8 arrays: any format, size and mode that Pillow reads itself.

EXIF rotation is applied; of an animation the first frame is taken; 16 bits are scaled
to 8, floats are refused; transparent pixels keep their colour.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tljax.data.augment import RandomResizedCrop
from tljax.data.source import Source
from tljax.errors import InputError

# A JPEG is decoded at a half, a quarter or an eighth where that leaves this many times
# the size that it is then resized to.
_DRAFT_GAP = 2
_BLOCK = 1024  # images that wait for a thread at once
_UNIT = 1 << 12  # of the boxes of crops in an image's side
# For the whole process: contexts of warnings are not safe among threads.
warnings.simplefilter('error', Image.DecompressionBombWarning)
Box = tuple[float, float, float, float]  # top, left, height, width, in [0, 1]
_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_UPRIGHT = {  # by EXIF's orientation
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_FILTERS = {name.lower(): value for name, value in Image.Resampling.__members__.items()}


@dataclasses.dataclass(frozen=True)
class Transform:
  """How an image becomes the input of a network, the same each time.

  With a larger `resize` it is torchvision's Resize and CenterCrop of a Pillow image,
  which are timm's too; without it, Keras' `load_img(target_size=...)`. Both pixel by
  pixel, but for JPEGs so large that they are decoded at a reduced scale. With a
  `resize` of `size` it is the central square.

  Attributes:
    size: height and width of the result, pixels.
    resize: length that the shorter side is resized to before the centre crop of
      `size`; None resizes both sides to `size`.
    interpolation: a filter of Pillow's: 'bilinear', 'bicubic', 'nearest', ...; all but
      the last are antialiased.
  """

  size: int
  resize: int | None = None
  interpolation: str = 'bilinear'

  def __post_init__(self):
    if self.interpolation not in _FILTERS:
      raise InputError(
        f'interpolation {self.interpolation!r} is unknown; '
        f'choose one of {", ".join(_FILTERS)}'
      )
    if self.size < 1 or (self.resize is not None and self.resize < self.size):
      raise InputError(
        f'an image of {self.size} pixels cannot be cropped out of {self.resize}'
      )

  @property
  def uncropped(self) -> 'Transform':
    """All of the square that the centre is cropped out of; random crops want it."""
    return dataclasses.replace(self, size=self.resize or self.size)

  def __call__(self, image: Image.Image, box: Box | None = None) -> np.ndarray:
    """Returns (size, size, 3) uint8 of an RGB image.

    Args:
      image: the image.
      box: of what `uncropped` shows, to be resized to `size` in place of the centre.
    """
    size, filter_ = self.size, _FILTERS[self.interpolation]
    if box or self.resize in (None, size):  # only what is wanted is resized
      part = _part(self._frame(*image.size), box or _WHOLE)
      return np.asarray(image.resize((size, size), filter_, part))
    width, height = image.size
    other = int(self.resize * max(width, height) / min(width, height))
    shape = (self.resize, other) if width <= height else (other, self.resize)
    image = image.resize(shape, filter_)
    left, top = (int(round((side - size) / 2.0)) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))

  def _frame(self, width, height):
    """What `uncropped` shows of an image: left, top, right, lower."""
    if self.resize is None:
      return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _part(frame, box):
  """The box of a frame in pixels, for Pillow."""
  left, top, right, lower = frame
  width, height = right - left, lower - top
  y, x, tall, wide = box
  # Rounding must not lead out of the image.
  return (
    left + x * width,
    top + y * height,
    min(left + (x + wide) * width, right),
    min(top + (y + tall) * height, lower),
  )


def read(path: str | pathlib.Path, size: int, resize: int | None = None) -> np.ndarray:
  """Returns the image in a file as `Transform(size, resize)` makes it.

  Raises:
    InputError: it cannot be decoded whole; it is named.
  """
  file = Source([pathlib.Path(path)], np.zeros(1, np.int32), (), str(path))
  return read_example(file, 0, Transform(size, resize))


def read_example(
  source: Source, index: int, transform: Transform, box: Box | None = None
) -> np.ndarray:
  """Returns one image of a source, (size, size, 3) uint8; see `Transform`.

  Raises:
    InputError: it cannot be decoded whole; it is named.
  """
  with opened(source, index) as image:
    share = min(box[2:]) if box else 1.0
    least = math.ceil(_DRAFT_GAP * (transform.resize or transform.size) / share)
    image.draft(None, (least, least))  # of a JPEG; the aspect ratio stays
    image.load()
    return transform(to_rgb(_upright(image)), box)


def _upright(image):
  """Applies EXIF's orientation; ImageOps.exif_transpose trips over other bad tags."""
  try:
    method = _UPRIGHT[image.getexif()[ExifTags.Base.Orientation]]
  except MemoryError:
    raise
  except Exception:  # there is none, or none that can be read
    return image
  return image.transpose(method)


def check_header(source: Source, index: int) -> None:
  """Raises InputError unless an image begins as one does, of a sane size."""
  with opened(source, index):
    pass


@contextlib.contextmanager
def opened(source: Source, index: int) -> Iterator[Image.Image]:
  """Opens an image; any error within the block is an InputError that names it."""
  item = source[index]
  try:
    if isinstance(item, np.ndarray):
      is_grey = item.ndim == 3 and item.shape[-1] == 1
      yield Image.fromarray(item[..., 0] if is_grey else item)
      return
    file = io.BytesIO(item) if isinstance(item, bytes) else item
    with Image.open(file, formats=_formats()) as image:
      yield image
  except MemoryError:
    raise
  except Exception as error:  # Pillow's words for a broken file are of many classes
    reason = str(error).split('\n')[0].replace(repr(str(item)), 'the file')
    reason = re.sub('<_io.BytesIO[^>]*>', 'it', reason)
    raise InputError(
      f'{source.name(index)}: cannot be read as an image ({reason}); '
      'remove it, or leave such files out by --skip-corrupt'
    ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
  """All that Pillow reads but PostScript, for which it starts Ghostscript, and IPTC,
  which may hold some.
  """
  Image.preinit()  # first, so that the common ones are tried first
  Image.init()
  return tuple(name for name in Image.ID if name not in ('EPS', 'IPTC'))


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts any mode; 16-bit grey is scaled to 8 bits, not clipped.

  Raises:
    ValueError: what is white is unknown, of floats and of more than 16 bits.
  """
  if image.mode == 'F':
    raise ValueError('its pixels are floats; save it with 8 or 16 bits')
  if image.mode.startswith('I'):
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
      raise ValueError(
        f'its pixels go from {pixels.min()} to {pixels.max()}; save it with 16 bits, '
        '0 to 65535'
      )
    image = Image.fromarray((pixels / 257).round().astype(np.uint8))
  return image.convert('RGB')


class Images:
  """A source's images as an array (N, size, size, 3) uint8, decoded when indexed."""

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __init__(self, source: Source, transform: Transform):
    self.source = source
    self.transform = transform
    self.shape = (len(source), transform.size, transform.size, 3)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    if isinstance(index, int | np.integer):
      return read_example(self.source, int(index), self.transform)
    rows = np.arange(len(self))[index]
    return _decode(self.source, rows, self.transform, [None] * len(rows))

  def crop(
    self, index: np.ndarray, crop: RandomResizedCrop, uniform: np.ndarray
  ) -> np.ndarray:
    """Returns random crops (N, S, S, 3) uint8, each resized but once.

    Args:
      index: (N,) rows.
      crop: where to; S is its size.
      uniform: (N, *crop.draws) in [0, 1); fixes what is drawn.
    """
    boxes, mirror = crop.draw(uniform, (_UNIT, _UNIT))
    transform = dataclasses.replace(self.transform, size=crop.size)
    boxes = [tuple(box) for box in (boxes / _UNIT).tolist()]
    images = _decode(self.source, index, transform, boxes)
    images[mirror] = images[mirror, :, ::-1]
    return images

  def take(self, indices: np.ndarray) -> 'Images':
    """Returns the images at `indices`, not decoded."""
    return Images(self.source.take(indices), self.transform)

  def fingerprint(self) -> str:
    """Hash of contents and transform: 16 hex digits."""
    text = repr((self.source.fingerprint(), self.transform))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decode(source, rows, transform, boxes):
  """Reads images (N, size, size, 3) at the rows, a box of each."""

  def one(row, box):
    return read_example(source, row, transform, box)

  images = np.empty((len(rows), transform.size, transform.size, 3), np.uint8)
  for i, image in enumerate(threads().map(one, rows.tolist(), boxes)):
    images[i] = image
  return images


def each(function: Callable[[int], Any], count: int) -> Iterator[Any]:
  """Yields the function of 0, 1, ..., count - 1, called by the threads.

  They get a block at a time: whatever waits for them takes memory.
  """
  for start in range(0, count, _BLOCK):
    yield from threads().map(function, range(start, min(start + _BLOCK, count)))


@functools.cache
def threads() -> concurrent.futures.ThreadPoolExecutor:
  """The threads that decode; Pillow releases Python's lock."""
  return concurrent.futures.ThreadPoolExecutor(os.cpu_count())
