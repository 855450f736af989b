"""`folder:PATH`: images in a folder per class, with or without a folder per split."""

import os
import pathlib

import numpy as np

from tljax.data.source import SPLIT_NAMES, Source, Splits, class_labels
from tljax.errors import InputError

EXTENSIONS = {'.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp'}


def read(path: str) -> Splits:
  """Returns the images of a folder, by split where it has subfolders of the splits.

  Args:
    path: of a folder with a subfolder per class; or with subfolders train, val (or
      validation) and test, some of them, each with a subfolder per class.

  Raises:
    InputError: the folder is missing, has fewer than two classes, a class without
      images, or splits of different classes.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise InputError(f'{root}: there is no such folder; check the path')
  splits = {SPLIT_NAMES[f.name]: f for f in _subfolders(root) if f.name in SPLIT_NAMES}
  if 'train' not in splits:
    splits = {'all': root}
  files = {split: _by_class(folder) for split, folder in splits.items()}
  for split, classes in files.items():
    lone = sorted(set(classes) ^ set(next(iter(files.values()))))
    if lone:
      raise InputError(
        f'{root}: class {lone[0]!r} is in only one of train and {split}; '
        'every split needs the same classes'
      )
  names = {
    split: np.repeat(list(classes), [len(f) for f in classes.values()])
    for split, classes in files.items()
  }
  labels, classes = class_labels(names, str(root))
  return {
    split: Source(
      [file for members in by_class.values() for file in members],
      labels[split],
      classes,
      str(root),
    )
    for split, by_class in files.items()
  }


def _subfolders(path):
  return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith('.'))


def _by_class(path):
  """Files of each class, by its name."""
  folders = _subfolders(path)
  if len(folders) < 2:
    raise InputError(
      f'{path}: holds {len(folders)} class folder(s); want a folder of images for '
      'each of at least 2 classes'
    )
  return {_class_name(folder): image_files(folder) for folder in folders}


def _class_name(folder):
  try:
    folder.name.encode()
  except UnicodeEncodeError as error:
    name = os.fsencode(folder.name)
    raise InputError(
      f'{folder.parent}: class folder {name!r} is not named in UTF-8; rename it'
    ) from error
  return folder.name


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The images in a folder, sorted by name; hidden files are left out.

  Raises:
    InputError: there is none.
  """
  with os.scandir(folder) as entries:
    names = sorted(
      entry.name
      for entry in entries
      if os.path.splitext(entry.name)[1].lower() in EXTENSIONS
      and not entry.name.startswith('.')
    )
  if not names:
    within = ', '.join(f.name for f in _subfolders(folder)[:3])
    mend = (
      f'if it is a domain of classes such as {within}, choose folder:{folder}'
      if within
      else 'add some or remove the class folder'
    )
    raise InputError(f'{folder}: holds no image; {mend}')
  return [folder / name for name in names]
