"""A set of labelled images or features, and its deterministic subsets."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from tljax.data.images import Images
from tljax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Labelled images.

  Attributes:
    images: (N, H, W, 3) uint8, in memory or decoded when indexed; or features (N, D)
      float32 in their place.
    labels: (N,) int32 in [0, K); (N, K) bool where an example may have several classes
      or none; or targets of a regression, (N,) or (N, T) float32.
    classes: K names; none for a regression.
  """

  images: np.ndarray | Images
  labels: np.ndarray
  classes: tuple[str, ...]

  @property
  def is_multi_label(self) -> bool:
    """Whether an example may have several classes, or none."""
    return self.labels.dtype == bool

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, indices: np.ndarray) -> 'Dataset':
    """Returns the examples at `indices`."""
    lazy = isinstance(self.images, Images)
    images = self.images.take(indices) if lazy else self.images[indices]
    return dataclasses.replace(self, images=images, labels=self.labels[indices])

  def fingerprint(self) -> str:
    """Hash of images, labels and class names: 16 hex digits."""
    digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
    if isinstance(self.images, Images):
      digest.update(self.images.fingerprint().encode())
    else:
      digest.update(np.ascontiguousarray(self.images))
    digest.update(np.ascontiguousarray(self.labels))
    return digest.hexdigest()[:16]

  def shots(self, count: int, seed: int) -> 'Dataset':
    """Returns `count` examples of each class, drawn by `seed`.

    Raises:
      InputError: a class has fewer, or there are none.
    """
    if not self.classes:
      raise InputError("--shots counts examples of classes; these are a regression's")
    if self.is_multi_label:
      raise InputError('--shots counts examples of one class each; these have several')
    rng = np.random.default_rng(seed)
    chosen = []
    for k, name in enumerate(self.classes):
      members = np.flatnonzero(self.labels == k)
      if len(members) < count:
        raise InputError(
          f'class {name!r} has {len(members)} examples, fewer than the {count} '
          'shots asked for; ask for fewer'
        )
      chosen.append(rng.permutation(members)[:count])
    return self.take(np.sort(np.concatenate(chosen)))


def whole(splits: Mapping[str, Dataset]) -> Dataset:
  """Returns all examples of the splits of a set that is in memory."""
  first, *_ = parts = list(splits.values())
  if isinstance(first.images, Images):
    raise InputError('the splits of a set too large for memory cannot be put together')
  images = np.concatenate([part.images for part in parts])
  labels = np.concatenate([part.labels for part in parts])
  return dataclasses.replace(first, images=images, labels=labels)


def stratified(
  labels: np.ndarray, fractions: dict[str, float], seed: int
) -> dict[str, np.ndarray]:
  """Splits indices into named parts, each class in proportion.

  Args:
    labels: (N,) integer.
    fractions: share of each part; they sum to 1.
    seed: fixes the split.

  Returns:
    Sorted, disjoint indices of each part; together they are all N.
  """
  rng = np.random.default_rng(seed)
  ends = np.cumsum(list(fractions.values()))
  parts = {name: [] for name in fractions}
  for k in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == k))
    cuts = np.round(ends[:-1] * len(members)).astype(int)
    for name, part in zip(fractions, np.split(members, cuts), strict=True):
      parts[name].append(part)
  return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def check_same_classes(source: Dataset, target: Dataset) -> None:
  """Raises InputError, and names a class, unless both sets have the same classes.

  Rows must have as many features, and a regression as many targets, likewise.
  """
  for name in ('images', 'labels'):
    shapes = [getattr(dataset, name).shape[1:] for dataset in (source, target)]
    if shapes[0] != shapes[1]:
      raise InputError(
        f'examples have {name} of shape {shapes[0]} in the source and {shapes[1]} in '
        'the target; both domains need the same columns'
      )
  lone = sorted(set(source.classes) ^ set(target.classes))
  if lone:
    where = 'source' if lone[0] in source.classes else 'target'
    raise InputError(
      f'class {lone[0]!r} is in the {where} only; both domains need the same classes '
      f'({len(source.classes)} in the source, {len(target.classes)} in the target)'
    )
