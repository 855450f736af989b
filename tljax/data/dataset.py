"""A set of labelled images or features, and its deterministic subsets."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from tljax.data.images import Images
from tljax.data.source import check_classes
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

  def keep_classes(self, names: Sequence[str]) -> 'Dataset':
    """Returns the examples of some classes, which are numbered anew, as named.

    Raises:
      InputError: there is no such class, or one is named twice.
    """
    check_classes(names, self.classes)
    return self.number_classes(names)

  def number_classes(self, names: Sequence[str], *, unknown: bool = False) -> 'Dataset':
    """Returns the examples labelled by other classes, by name.

    Those of no such class are left out, or, with `unknown`, of one more class of that
    name, the last.
    """
    if tuple(names) == self.classes and not unknown:
      return self
    rest = len(names) if unknown else -1
    numbers = [names.index(k) if k in names else rest for k in self.classes]
    labels = np.array(numbers, np.int32)[self.labels]
    kept = self if np.all(labels >= 0) else self.take(np.flatnonzero(labels >= 0))
    classes = (*names, 'unknown') if unknown else tuple(names)
    return dataclasses.replace(kept, labels=labels[labels >= 0], classes=classes)

  def shots(self, count: int, seed: int) -> 'Dataset':
    """Returns `count` examples of each class, drawn by `seed`.

    Raises:
      InputError: `count` is none, a class has fewer, or there are no classes.
    """
    if count < 1:
      raise InputError(f'{count} shots are none; ask for at least 1')
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


def judging_split(splits: Mapping[str, Dataset]) -> Dataset:
  """Returns the split of the final figures: 'test', or 'validation' where none is."""
  return splits['test'] if 'test' in splits else splits['validation']


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


def match_classes(
  source: Mapping[str, Dataset], target: Mapping[str, Dataset], setting: str = 'closed'
) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
  """Returns two domains' splits, both labelled by the source's classes.

  Args:
    source: by split.
    target: by split.
    setting: 'closed', where both have the same classes; 'partial', where the target
      lacks some of the source's; or 'open', where it has others too. Those are then one
      class, 'unknown', the last, of which the source has no example.

  Raises:
    InputError: a class is in one domain only, which the setting does not allow;
      'open' has no unknown class; or rows have not as many features in both, or a
      regression as many targets.
  """
  for name in ('images', 'labels'):
    shapes = [getattr(part['train'], name).shape[1:] for part in (source, target)]
    if shapes[0] != shapes[1]:
      raise InputError(
        f'examples have {name} of shape {shapes[0]} in the source and {shapes[1]} in '
        'the target; both domains need the same columns'
      )
  names, others = source['train'].classes, target['train'].classes
  lone = {'source': set(names) - set(others), 'target': set(others) - set(names)}
  for where, allowing in (('source', 'partial'), ('target', 'open')):
    if lone[where] and setting != allowing:
      hint = f', or choose --setting {allowing}' if setting == 'closed' else ''
      raise InputError(
        f'class {min(lone[where])!r} is in the {where} only, which the setting '
        f'{setting!r} does not allow for ({len(names)} classes in the source, '
        f'{len(others)} in the target); leave it out by --{where}-classes{hint}'
      )
  unknown = setting == 'open'
  if unknown and not lone['target']:
    raise InputError(
      '--setting open: the target has no class that the source lacks; name fewer '
      'by --source-classes'
    )
  both = (
    {name: part.number_classes(names, unknown=unknown) for name, part in splits.items()}
    for splits in (source, target)
  )
  return tuple(both)
