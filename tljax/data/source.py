"""Examples as they are stored: what every reader of data sets returns."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tljax.errors import InputError

Item = pathlib.Path | bytes | np.ndarray  # one image: a file, its bytes, or its pixels
_END = 4096  # bytes at either end of a file that its fingerprint reads


@dataclasses.dataclass(frozen=True)
class Source:
  """A set of examples in a fixed order; nothing is decoded yet.

  Attributes:
    items: N images.
    labels: (N,) int32 in [0, K); (N, K) bool where an example may have several classes
      or none; or targets of a regression, (N,) or (N, T) float32.
    classes: K names; none for a regression.
    origin: where the examples are from, for messages.
    digest: tells apart contents that are not files.
    rows: which of the items these are; by default all.
  """

  items: Sequence[Item]
  labels: np.ndarray
  classes: tuple[str, ...]
  origin: str
  digest: str = ''
  rows: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> Item:
    return self.items[index if self.rows is None else int(self.rows[index])]

  def name(self, index: int) -> str:
    """What a message calls an example."""
    item = self[index]
    row = index if self.rows is None else self.rows[index]
    return str(item) if isinstance(item, pathlib.Path) else f'{self.origin}, row {row}'

  def label(self, index: int) -> str:
    """Name of an example's class, or its targets."""
    label = self.labels[index]
    if label.dtype == bool:
      return '|'.join(np.array(self.classes)[label])
    return self.classes[label] if self.classes else str(label)

  def take(self, indices: np.ndarray) -> 'Source':
    """Returns the examples at `indices`."""
    rows = indices if self.rows is None else self.rows[indices]
    return dataclasses.replace(self, labels=self.labels[indices], rows=rows)

  def keep_classes(self, names: Sequence[str]) -> 'Source':
    """Returns the examples of some classes, which are numbered anew, as named.

    Where an example may have several it returns all, less what other classes they have.

    Raises:
      InputError: there is no such class, or one is named twice.
    """
    check_classes(names, self.classes, f'{self.origin}: ')
    old = np.array([self.classes.index(name) for name in names])
    if self.labels.dtype == bool:
      labels = self.labels[:, old]
      return dataclasses.replace(self, labels=labels, classes=tuple(names))
    kept = self.take(np.flatnonzero(np.isin(self.labels, old)))
    renumber = np.zeros(len(self.classes), np.int32)
    renumber[old] = np.arange(len(old))
    return dataclasses.replace(kept, labels=renumber[kept.labels], classes=tuple(names))

  def fingerprint(self) -> str:
    """Hash of the contents, labels and class names: 16 hex digits.

    Of each file it takes the name, the size and both ends, so that a set of millions
    is not read through; of all else, the whole.
    """
    digest = hashlib.sha256(repr((self.classes, len(self), self.digest)).encode())
    digest.update(np.ascontiguousarray(self.labels))
    if self.rows is not None:
      digest.update(np.ascontiguousarray(self.rows))
    for i in range(len(self)) if not self.digest else ():
      item = self[i]
      parts = _ends(item) if isinstance(item, pathlib.Path) else (bytes(item),)
      for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _ends(path):
  try:
    with open(path, 'rb') as file:
      size = os.fstat(file.fileno()).st_size
      first = file.read(_END)
      file.seek(max(0, size - _END))
      return os.fsencode(path.name), str(size).encode(), first, file.read(_END)
  except OSError:  # such as a broken link; decoding says so where it matters
    return os.fsencode(path.name), b'unreadable'


def several_labels(
  values: Mapping[str, Sequence[str]], origin: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Numbers labels such as 'cat|dog' of several splits; '' has no class.

  Returns:
    By split, (N, K) bool, and the sorted names of the classes.

  Raises:
    InputError: there is no class at all.
  """
  named = {
    split: [{name.strip() for name in text.split('|')} - {''} for text in texts]
    for split, texts in values.items()
  }
  classes = sorted({c for group in named.values() for names in group for c in names})
  if not classes:
    raise InputError(f'{origin}: no example has a class; write such as cat|dog')
  labels = {
    split: np.array([[c in names for c in classes] for names in group], bool)
    for split, group in named.items()
  }
  return labels, tuple(classes)


def check_classes(names: Sequence[str], known: Sequence[str], where: str = '') -> None:
  """Raises InputError where one of the names is no class, or is there twice."""
  if len(set(names)) < len(names):
    raise InputError(f'of the classes {", ".join(names)} one is named twice')
  for name in names:
    if name not in known:
      raise InputError(
        f'{where}there is no class {name!r}; choose from '
        f'{", ".join(known) or "none: it has no classes"}'
      )


Splits = Mapping[str, Source]  # 'train', 'validation', 'test'; or 'all', unsplit
SPLIT_NAMES = {
  'train': 'train',
  'training': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
}


def class_labels(
  values: Mapping[str, np.ndarray], origin: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Numbers class labels of several splits alike.

  Args:
    values: by split, (N,) integers or strings.
    origin: for messages.

  Returns:
    By split, (N,) int32, and the sorted names of the classes.

  Raises:
    InputError: there are fewer than two classes, or one is of no training example.
  """
  distinct = np.unique(np.concatenate(list(values.values())))
  classes = tuple(str(value) for value in distinct)
  if len(classes) < 2:
    raise InputError(
      f'{origin}: holds {len(classes)} class(es); want at least 2 to tell apart'
    )
  if 'train' in values:
    for split, labels in values.items():
      lone = np.setdiff1d(labels, values['train'])
      if len(lone):
        raise InputError(
          f'{origin}: class {str(lone[0])!r} is in the {split} split but not in the '
          'training split; every class needs training examples'
        )
  numbered = {
    k: np.searchsorted(distinct, v).astype(np.int32) for k, v in values.items()
  }
  return numbered, classes
