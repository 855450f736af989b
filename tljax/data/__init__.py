"""Data sets by name, and batches of them as pure functions of (seed, step)."""

import dataclasses

import numpy as np
from PIL import Image

from tljax.data import digits, folder
from tljax.data.dataset import Dataset
from tljax.errors import InputError


def load(spec: str, size: int, *, skip_corrupt: bool = False) -> dict[str, Dataset]:
  """Returns the splits of a data set: 'train', 'validation' and, mostly, 'test'.

  Args:
    spec: 'digits', 'digits-m' or 'folder:PATH'.
    size: height and width of the images, pixels.
    skip_corrupt: of a folder, leave out images that cannot be read.

  Raises:
    InputError: there is no such set, or it cannot be read.
  """
  kind, _, path = spec.partition(':')
  if kind == 'folder' and path:
    return folder.load(path, size, skip_corrupt=skip_corrupt)
  if spec in digits.NAMES:
    return {name: _resize(split, size) for name, split in digits.load(spec).items()}
  raise InputError(
    f'data set {spec!r} is unknown; choose {", ".join(digits.NAMES)} or folder:PATH'
  )


def _resize(split, size):
  if split.images.shape[1] == size:
    return split
  resized = [
    Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    for image in split.images
  ]
  return dataclasses.replace(split, images=np.stack([np.asarray(i) for i in resized]))
