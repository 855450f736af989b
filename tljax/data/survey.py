"""What is in a data set: counts, sizes, corrupt files, duplicates across splits."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tljax.data import images
from tljax.data.images import Images, Transform
from tljax.data.source import Source
from tljax.errors import InputError

_THUMBNAIL = 16  # pixels; enough to tell photographs apart
# Correlation of two thumbnails above which they show one picture: a photograph scaled
# or compressed anew stays above, neighbours on a film do not.
_SAME = 0.999
_CHUNK = 2048  # thumbnails compared at once


class Look(NamedTuple):
  """What one decoded example shows.

  Attributes:
    size: (width, height) in pixels.
    mode: Pillow's name of its colours: 'RGB', 'L', ...
    digest: hash of size, mode and pixels.
    thumbnail: (16, 16, 3) uint8.
  """

  size: tuple[int, int]
  mode: str
  digest: bytes
  thumbnail: np.ndarray


class Survey(NamedTuple):
  """What a split holds.

  Attributes:
    source: the split.
    looks: an example each; None where it is corrupt.
    corrupt: message of each corrupt example.
  """

  source: Source
  looks: Sequence[Look | None]
  corrupt: Sequence[str]

  def good(self) -> np.ndarray:
    """Rows of the examples that are not corrupt."""
    return np.flatnonzero([look is not None for look in self.looks])

  def counts(self) -> dict[str, int]:
    """Examples of each class; of a regression, all of them."""
    if not self.source.classes:
      return {'targets': len(self.source)}
    numbers = np.bincount(self.source.labels, minlength=len(self.source.classes))
    return dict(zip(self.source.classes, numbers.tolist(), strict=True))

  def facts(self) -> dict[str, str]:
    """Number, sizes by area, and modes of the images."""
    looks = [self.looks[i] for i in self.good()]
    sizes = sorted((look.size for look in looks), key=np.prod) or [(0, 0)]
    some = {'smallest': 0, 'median': len(sizes) // 2, 'largest': -1}
    modes = [look.mode for look in looks]
    return {
      'images': str(len(self.source)),
      **{name: '{}x{}'.format(*sizes[i]) for name, i in some.items()},
      'modes': ', '.join(f'{modes.count(mode)} {mode}' for mode in sorted(set(modes))),
      'corrupt': str(len(self.corrupt)),
    }

  def pictures(self, count: int, size: int = 96) -> dict[str, np.ndarray]:
    """Some images of each of the first 20 classes, evenly spread.

    Args:
      count: of images a class.
      size: height and width of each, pixels.
    """
    good, rows = self.good(), {}
    for k, name in enumerate(self.source.classes[:20] or ('targets',)):
      members = good[self.source.labels[good] == k] if self.source.classes else good
      spread = np.linspace(0, len(members) - 1, min(count, len(members))).astype(int)
      images_of = Images(self.source.take(members[spread]), Transform(size, size))
      rows[name] = images_of[:]
    return {name: of for name, of in rows.items() if len(of)}


def survey(
  source: Source, progress: Callable[[Iterable, int], Iterable] = lambda items, _: items
) -> Survey:
  """Decodes every example of a split.

  Args:
    source: the split.
    progress: wraps (items, their number), to show how far it is.
  """
  if isinstance(source[0], np.ndarray) and source[0].ndim == 1:
    raise InputError(f'{source.origin}: holds features, no images to look at')

  def look(index):
    try:
      with images.opened(source, index) as image:
        image.load()
        pixels = np.asarray(image)
        digest = hashlib.sha256(repr((image.size, image.mode)).encode())
        digest.update(np.ascontiguousarray(pixels))
        thumbnail = Transform(_THUMBNAIL, None, 'box')(images.to_rgb(image))
        return Look(image.size, image.mode, digest.digest(), thumbnail), None
    except InputError as error:
      return None, str(error)

  found = list(progress(images.each(look, len(source)), len(source)))
  errors = [error for _, error in found if error]
  return Survey(source, [look for look, _ in found], errors)


class Duplicate(NamedTuple):
  """Two examples of one picture, in two splits."""

  first: str
  second: str
  exact: bool  # pixel by pixel; else only alike
  same_label: bool

  def __str__(self) -> str:
    copy = 'an exact copy' if self.exact else 'alike'
    label = 'the same label' if self.same_label else 'ANOTHER LABEL'
    return f'{self.first} and {self.second}: {copy}, {label}'


def duplicates(surveys: Mapping[str, Survey]) -> list[Duplicate]:
  """Returns the pictures that are in more than one split.

  Args:
    surveys: by split.
  """
  found = []
  for a, b in itertools.combinations(surveys.values(), 2):
    for i, j in sorted({*_equal(a, b), *_alike(a, b)}):
      found.append(
        Duplicate(
          a.source.name(i),
          b.source.name(j),
          a.looks[i].digest == b.looks[j].digest,
          a.source.label(i) == b.source.label(j),
        )
      )
  return found


def _equal(a, b):
  """Pairs of rows that are the same pixel by pixel."""
  rows = collections.defaultdict(list)
  for i in a.good():
    rows[a.looks[i].digest].append(int(i))
  return [(i, int(j)) for j in b.good() for i in rows.get(b.looks[j].digest, ())]


def _alike(a, b):
  """Pairs of rows whose thumbnails correlate."""
  (rows, first), (columns, second) = _standardised(a), _standardised(b)
  for i in range(0, len(rows), _CHUNK):
    for j in range(0, len(columns), _CHUNK):
      correlation = first[i : i + _CHUNK] @ second[j : j + _CHUNK].T
      for row, column in np.argwhere(correlation > _SAME):
        yield int(rows[i + row]), int(columns[j + column])


def _standardised(survey):
  """Rows, and their thumbnails with mean 0 and norm 1; of one grey, 0."""
  good = survey.good()
  pixels = [survey.looks[i].thumbnail.ravel() for i in good]
  vectors = np.array(pixels, np.float32).reshape(len(good), -1)
  vectors -= vectors.mean(1, keepdims=True)
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  return good, vectors / np.maximum(norms, 1e-6)


def overlap(first: Sequence[str], second: Sequence[str]) -> dict[str, list[str]]:
  """Which classes two sets share, and which one of them has alone."""
  return {
    'both': [name for name in first if name in second],
    'the first only': [name for name in first if name not in second],
    'the second only': [name for name in second if name not in first],
  }
