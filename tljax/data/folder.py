"""`folder:PATH`: images in a folder per class, with or without a folder per split."""

import collections
import concurrent.futures
import os
import pathlib
import sys

import numpy as np

from tljax.data import images
from tljax.data.dataset import Dataset, stratified
from tljax.errors import InputError

EXTENSIONS = {'.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp'}
_SPLITS = {
  'train': 'train',
  'val': 'validation',
  'validation': 'validation',
  'test': 'test',
}
_FRACTIONS = {'train': 0.6, 'validation': 0.1, 'test': 0.3}


def load(
  path: str | pathlib.Path, size: int, *, skip_corrupt: bool = False
) -> dict[str, Dataset]:
  """Returns the splits of a folder of images.

  With subfolders train and val (or validation) and perhaps test, these are the
  splits. Otherwise the classes lie in PATH itself, and the split into train (60%),
  validation (10%) and test (30%) is stratified and always the same.

  Args:
    path: the folder.
    size: height and width of the images, pixels; see `images.read`. The shorter side
      is resized to 8/7 of it, as 224 pixels are cropped out of 256.
    skip_corrupt: leave out what cannot be read, and say how many.

  Raises:
    InputError: the folder is missing, has fewer than two classes, a class without
      images, splits of different classes, or a corrupt image (without skip_corrupt).
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise InputError(f'{path}: there is no such folder; check the path')
  splits = {_SPLITS[f.name]: f for f in _subfolders(path) if f.name in _SPLITS}
  if not splits:
    whole = _load_classes(path, size, skip_corrupt)
    parts = stratified(whole.labels, _FRACTIONS, seed=0)
    return {name: whole.take(indices) for name, indices in parts.items()}
  for name in ('train', 'validation'):
    if name not in splits:
      raise InputError(f'{path}: has splits but no {name} folder; add one')
  loaded = {n: _load_classes(f, size, skip_corrupt) for n, f in splits.items()}
  for name, split in loaded.items():
    lone = sorted(set(split.classes) ^ set(loaded['train'].classes))
    if lone:
      raise InputError(
        f'{path}: class {lone[0]!r} is in only one of train and {name}; '
        'every split needs the same classes'
      )
  return loaded


def _subfolders(path):
  return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith('.'))


def _load_classes(path, size, skip_corrupt):
  """Decodes the images of a folder with one subfolder per class."""
  folders = _subfolders(path)
  if len(folders) < 2:
    raise InputError(
      f'{path}: holds {len(folders)} class folder(s); want a folder of images for '
      'each of at least 2 classes'
    )
  files = [(f, k) for k, folder in enumerate(folders) for f in _image_files(folder)]
  read = _Reader(size, skip_corrupt)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    decoded = list(pool.map(read, [file for file, _ in files]))
  read.report(path)
  kept = [
    (image, k)
    for image, (_, k) in zip(decoded, files, strict=True)
    if image is not None
  ]
  counts = collections.Counter(k for _, k in kept)
  for k, folder in enumerate(folders):
    if not counts[k]:
      raise InputError(f'{folder}: no image of this class can be read')
  return Dataset(
    np.stack([image for image, _ in kept]),
    np.array([k for _, k in kept], np.int32),
    tuple(folder.name for folder in folders),
  )


def _image_files(folder):
  files = sorted(
    f
    for f in folder.iterdir()
    if f.suffix.lower() in EXTENSIONS and not f.name.startswith('.')
  )
  if not files:
    raise InputError(f'{folder}: holds no image; add some or remove the class folder')
  return files


class _Reader:
  """Decodes a file; a corrupt one raises, or is noted and gives None."""

  def __init__(self, size, skip_corrupt):
    self._size, self._skip = size, skip_corrupt
    self._corrupt = []

  def __call__(self, file):
    try:
      return images.read(file, self._size, round(self._size * 8 / 7))
    except InputError:
      if not self._skip:
        raise
      self._corrupt.append(file)

  def report(self, path):
    if self._corrupt:
      first = min(self._corrupt)
      print(
        f'{path}: left out {len(self._corrupt)} corrupt image(s), such as {first}',
        file=sys.stderr,
      )
