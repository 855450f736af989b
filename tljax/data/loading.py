"""Data sets by name, split, and decoded: into memory where they fit, else as used."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from rich import progress
from rich.console import Console

from tljax.data import arrays, digits, folder, images, tables, tfds
from tljax.data.dataset import Dataset, stratified
from tljax.data.images import Images, Transform
from tljax.data.source import Source, Splits
from tljax.errors import InputError

READERS: dict[str, Callable[[str], Splits]] = {
  'folder': folder.read,
  'csv': tables.read_csv,
  'npz': arrays.read_npz,
  'mat': arrays.read_mat,
  'idx': arrays.read_idx,
  'h5': arrays.read_h5,
  'parquet': tables.read_parquet,
  'tfds': tfds.read,
}
MEMORY = 512 << 20  # bytes of decoded images that are kept
VALIDATION, TEST = 0.1, 0.3  # shares of a set that is not split


def load(
  spec: str,
  transform: Transform,
  *,
  train_transform: Transform | None = None,
  classes: Sequence[str] = (),
  validation: float | None = None,
  skip_corrupt: bool = False,
  memory: int = MEMORY,
) -> dict[str, Dataset]:
  """Returns the splits of a data set: 'train', 'validation' and, mostly, 'test'.

  A set without splits is divided into train (60%), validation (10%) and test (30%);
  one without a validation split gives 10% of its training split. Both are stratified
  and always the same.

  Args:
    spec: 'digits', 'digits-m', or KIND:PATH with a kind of `READERS`.
    transform: of each image; images that are stored small, as arrays, are only
      resized.
    train_transform: of training images, where another; such as
      `transform.uncropped`, out of which an augmentation crops.
    classes: the only ones to keep, in this order.
    validation: share of the training split that becomes the validation split, where
      the set has none.
    skip_corrupt: leave out images that cannot be read, and say how many.
    memory: bytes of decoded images to keep. A larger set is decoded as it is used.

  Raises:
    InputError: there is no such set, it cannot be read, or a class is empty.
  """
  sources = read_splits(spec, classes, validation)
  transforms = {name: transform for name in sources}
  transforms['train'] = train_transform or transform
  pixels = sum(len(s) * transforms[k].size ** 2 for k, s in sources.items())
  datasets, corrupt = {}, []
  for name, source in sources.items():
    if not len(source):
      raise InputError(f'{spec}: too few examples: none is in the {name} split')
    datasets[name], unreadable = decode(
      source, transforms[name], skip_corrupt, 3 * pixels <= memory
    )
    corrupt += unreadable
  if corrupt:
    print(
      f'{spec}: left out {len(corrupt)} corrupt image(s), such as {min(corrupt)}',
      file=sys.stderr,
    )
  return datasets


def read_splits(
  spec: str, classes: Sequence[str] = (), validation: float | None = None
) -> dict[str, Source]:
  """Returns the splits of a data set as they are stored; see `load`."""
  sources = split(read(spec), validation)
  if classes:
    sources = {k: source.keep_classes(classes) for k, source in sources.items()}
  return sources


def read(spec: str) -> Splits:
  """Returns a data set as it is stored; see `load`."""
  kind, _, path = spec.partition(':')
  if spec in digits.NAMES:
    return digits.read(spec)
  if kind in READERS and path:
    return READERS[kind](path)
  kinds = ', '.join(f'{kind}:PATH' for kind in READERS)
  raise InputError(
    f'data set {spec!r} is unknown; choose {", ".join(digits.NAMES)} or one of {kinds}'
  )


def split(sources: Splits, validation: float | None = None) -> dict[str, Source]:
  """Returns the splits 'train', 'validation' and, but for sets without one, 'test'.

  Raises:
    InputError: the set has a validation split and `validation` asks for another, or
      the share leaves no training examples, of all or of a class; or there is nothing
      to train on.
  """
  most = 1 if {'validation', 'test'} & sources.keys() else 1 - TEST
  if validation is not None and not 0 < validation < most:
    raise InputError(
      f'--val-fraction is {validation}; choose one between 0 and {most}'
      + ('' if most == 1 else f', since {TEST} of the set become its test split')
    )
  if 'train' not in sources and {'validation', 'test'} & sources.keys():
    origin = next(iter(sources.values())).origin
    raise InputError(f'{origin} has no training split; name one, or give it unsplit')
  if 'validation' in sources:
    if validation is not None:
      raise InputError(
        f'{sources["train"].origin} has a validation split of its own; '
        'leave --val-fraction out'
      )
    return dict(sources)
  share = validation or VALIDATION
  if 'test' in sources:
    rest = {k: source for k, source in sources.items() if k != 'train'}
    return {**_divide(sources['train'], {'validation': share}), **rest}
  (whole,) = sources.values()
  return _divide(whole, {'validation': share, 'test': TEST})


def _divide(source, shares):
  shares = {'train': 1 - sum(shares.values()), **shares}
  one_each = source.classes and source.labels.ndim == 1
  strata = source.labels if one_each else np.zeros(len(source), np.int32)
  parts = stratified(strata, shares, seed=0)
  lost = np.setdiff1d(strata, strata[parts['train']])
  if one_each and len(lost):
    raise InputError(
      f'{source.origin}: class {source.classes[lost[0]]!r} has too few examples '
      f'({np.sum(strata == lost[0])}) to train on {shares["train"]:.0%} of them; '
      'lower --val-fraction, or add some'
    )
  return {name: source.take(rows) for name, rows in parts.items()}


def decode(
  source: Source, transform: Transform, skip_corrupt: bool, in_memory: bool
) -> tuple[Dataset, list[str]]:
  """Returns the images and labels, and the names of corrupt images that are left out.

  Features pass as they are.

  Raises:
    InputError: an image cannot be read, without `skip_corrupt`, or no image of a class
      can. Of sets that are not kept in memory only the headers are looked at here.
  """
  if isinstance(source[0], np.ndarray):
    if source[0].ndim == 1:
      features = np.stack([source[i] for i in range(len(source))])
      return Dataset(features, source.labels, source.classes), []
    transform = dataclasses.replace(transform, resize=None)
  decoded, corrupt = None, []
  if in_memory:
    decoded = np.empty((len(source), transform.size, transform.size, 3), np.uint8)

  def visit(i):
    try:
      if in_memory:
        decoded[i] = images.read_example(source, i, transform)
      elif skip_corrupt:
        images.read_example(source, i, transform)
      else:
        images.check_header(source, i)
    except InputError:
      if not skip_corrupt:
        raise
      corrupt.append(i)

  for _ in track(images.each(visit, len(source)), len(source)):
    pass
  names = [source.name(i) for i in corrupt]
  if corrupt:
    kept = np.setdiff1d(np.arange(len(source)), corrupt)
    lost = np.setdiff1d(source.labels, source.labels[kept])
    if source.classes and source.labels.ndim == 1 and len(lost):
      name = source.classes[int(lost[0])]
      raise InputError(f'{source.origin}: no image of class {name!r} can be read')
    source, decoded = source.take(kept), decoded[kept] if in_memory else None
  array = decoded if in_memory else Images(source, transform)
  return Dataset(array, source.labels, source.classes), names


def track(items: Iterable, total: int) -> Iterable:
  """Shows in a terminal how many of the items were read."""
  console = Console(stderr=True)
  return progress.track(
    items,
    'reading images',
    total,
    console=console,
    transient=True,
    disable=not console.is_terminal,
  )
