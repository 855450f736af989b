"""Batches as a pure function of (seed, step): an exact resume needs only the step.

The step is in every checkpoint, so the pipeline has no state of its own to save. The
host reads this process's share of a batch; what is random happens on the devices, to
the whole batch, so the result does not depend on how many there are.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epy

from tljax.data.augment import Augment, Mix, RandomResizedCrop, to_float
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.method import Batch

with epy.lazy_imports():  # it is slow to import
  import grain

_CROPS = 1 << 32  # apart from the seeds of the order
_TARGET = 1 << 30  # roles, apart from the numbers of passes and classes
_LABELLED, _JOINED = _TARGET + 1, _TARGET + 2
_AHEAD = 4  # batches that are read before they are wanted


class Stream(NamedTuple):
  """Batches by step, counted from 0, without end: `stream(step)`.

  Streams that go together have roles, integers after the step, by which orders and
  augmentations differ. Else domains as large as each other, sorted by class, would show
  the same classes in the same rows, which says what the target's labels are.

  Attributes:
    read: `(step, *roles) -> arrays` on the host: this process's rows of the batch.
    finish: `(arrays, step, *roles) -> batch` on the devices.
    workers: processes that read; 0 are threads of this one.
  """

  read: Callable[..., Batch]
  finish: Callable[..., Batch]
  workers: int = 0

  def __call__(self, step: int) -> Batch:
    return self.finish(self.read(step), np.uint32(step))


def stream(
  dataset: Dataset,
  batch_size: int,
  seed: int,
  augment: Augment | None = None,
  *,
  crop: RandomResizedCrop | None = None,
  mix: Mix | None = None,
  balanced: bool = False,
  workers: int = 0,
  process: tuple[int, int] | None = None,
) -> Stream:
  """Returns `step -> {'image', 'label'}`, an endless shuffled pass over the set.

  The passes are laid end to end, each in an order of its own, and cut into batches:
  no example is dropped, and all are seen equally often.

  Args:
    dataset: the examples.
    batch_size: examples in a batch, of all processes together.
    seed: fixes order and augmentation.
    augment: of images (N, H, W, 3) float32 in [0, 1], jitted here; what it returns by
      name, as `augment.weak_strong` does, joins the batch.
    crop: comes first. Where images are decoded as they are used, the host crops out of
      each at its full resolution; out of images in memory the devices crop.
    mix: of the augmented images and their labels, jitted here.
    balanced: every class takes its turn, and passes over its own examples.
    workers: processes that decode images; by default threads do.
    process: (index, count) of this process; by default JAX's.

  Raises:
    InputError: the batch is larger than the set, or does not divide over processes.
  """
  check_batch_size(batch_size, len(dataset))
  index, count = process or (jax.process_index(), jax.process_count())
  if batch_size % count:
    raise InputError(
      f'--batch-size is {batch_size}; choose a multiple of the {count} processes'
    )
  in_memory = isinstance(dataset.images, np.ndarray)
  read = _Reader(
    dataset, batch_size, seed, balanced, None if in_memory else crop, index, count
  )
  key = jax.random.key(seed)

  @jax.jit
  def finish(batch, step, *roles):
    own = functools.reduce(jax.random.fold_in, roles, key)
    augment_key = mix_key = jax.random.fold_in(own, step)
    if mix is not None:
      augment_key, mix_key = jax.random.split(augment_key)
    views = batch['image']
    if crop is not None and in_memory:
      crop_key, augment_key = jax.random.split(augment_key)
      views = crop(crop_key, views)
    views = to_float(views)
    if augment is not None:
      views = augment(augment_key, views)
    batch = {**batch, **(views if isinstance(views, dict) else {'image': views})}
    if mix is not None:
      batch['image'], batch['label'] = mix(mix_key, batch['image'], batch['label'])
    return batch

  return Stream(read, finish, 0 if in_memory else workers)


class _Reader:
  """This process's rows of each batch. Worker processes get a copy."""

  def __init__(self, dataset, batch_size, seed, balanced, crop, index, count):
    self._dataset, self._batch_size, self._seed = dataset, batch_size, seed
    self._crop = crop
    share = batch_size // count
    self._mine = index * share + np.arange(share)
    self._groups = [np.arange(len(dataset))]  # which take turns
    if balanced and (dataset.is_multi_label or not dataset.classes):
      raise InputError('class-balanced batches want examples of one class each')
    if balanced:
      classes = range(len(dataset.classes))
      self._groups = [np.flatnonzero(dataset.labels == k) for k in classes]
      if not all(map(len, self._groups)):
        raise InputError('class-balanced batches want examples of every class')

  def __call__(self, step: int, *roles: int) -> Batch:
    positions = step * self._batch_size + self._mine
    turns, groups = np.divmod(positions, len(self._groups))
    rows, seeds = np.empty_like(positions), (self._seed, *roles)
    for k in np.unique(groups).tolist():
      group, here = self._groups[k], groups == k
      seed = (*seeds, k) if len(self._groups) > 1 else seeds
      rows[here] = group[_passes(len(group), seed, turns[here])]
    images = self._images(rows, (*seeds, step))
    return {'image': images, 'label': self._dataset.labels[rows]}

  def _images(self, rows, seeds):
    if self._crop is None:
      return self._dataset.images[rows]
    rng = np.random.default_rng([_CROPS, *seeds])
    uniform = rng.random((self._batch_size, *self._crop.draws), np.float32)
    return self._dataset.images.crop(rows, self._crop, uniform[self._mine])


def _passes(size, seed, positions):
  """What stands at positions of passes over `size` things, each in another order."""
  epochs, places = np.divmod(positions, size)
  result = np.empty_like(positions)
  for epoch in np.unique(epochs).tolist():
    here = epochs == epoch
    result[here] = _order(size, seed, epoch)[places[here]]
  return result


# Grain's own shuffle finds one position at a time, 60 to 280 microseconds each.
@functools.lru_cache(maxsize=8)
def _order(size, seed, epoch):
  return np.random.default_rng([*seed, epoch]).permutation(size)


def pair(source: Stream, target: Stream, labelled: Stream | None = None) -> Stream:
  """Returns `step -> {'source': ..., 'target': ...}` without the target's labels.

  Each goes round at its own pace, however many examples the others have, in an order of
  its own. `labelled`, a few examples of the target with their labels, joins them under
  that name.
  """
  streams = {'source': (source,), 'target': (target, _TARGET)}
  if labelled is not None:
    streams['labelled'] = labelled, _LABELLED
  together = _together(streams)

  def read(step, *roles):
    batch = together.read(step, *roles)
    batch['target'].pop('label', None)
    return batch

  return together._replace(read=read)


def join(*streams: Stream) -> Stream:
  """Returns `step -> {'image', 'label'}`, the batches of all, one after the other."""
  together = _together({i: (one, _JOINED + i) for i, one in enumerate(streams)})

  @jax.jit
  def finish(batch, step, *roles):
    parts = together.finish(batch, step, *roles).values()
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

  return together._replace(finish=finish)


def _together(streams):
  """By name, the batches of (stream, *its roles), beside roles of all."""

  def read(step, *roles):
    return {k: one.read(step, *roles, *own) for k, (one, *own) in streams.items()}

  def finish(batch, step, *roles):
    return {
      k: one.finish(batch[k], step, *roles, *own) for k, (one, *own) in streams.items()
    }

  return Stream(read, finish, max(one.workers for one, *_ in streams.values()))


def stack(streams: Sequence[Stream]) -> Stream:
  """Returns `step -> batch` whose arrays have a leading axis, of the streams."""

  def read(step, *roles):
    parts = [stream.read(step, *roles) for stream in streams]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)

  @jax.jit
  def finish(batch, step, *roles):
    parts = [
      stream.finish(jax.tree.map(lambda x, i=i: x[i], batch), step, *roles)
      for i, stream in enumerate(streams)
    ]
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *parts)

  return Stream(read, finish, max(stream.workers for stream in streams))


def merge(*sources: Stream) -> Stream:
  """Returns the batches of several sources as one, whose 'domain' tells them apart.

  It is (N,) int32 and counts the sources. A single source stays as it is.
  """
  if len(sources) == 1:
    return sources[0]
  joined = join(*sources)

  @jax.jit
  def finish(batch, step, *roles):
    sizes = [len(part['label']) for part in batch.values()]
    domain = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return {**joined.finish(batch, step, *roles), 'domain': jnp.asarray(domain)}

  return joined._replace(finish=finish)


def read_ahead(stream: Stream, start: int, stop: int) -> Iterator[Batch]:
  """Yields `stream.read(step)` of the steps in turn, and reads on in the background."""
  dataset = grain.MapDataset.range(start, stop).map(stream.read)
  options = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
  if not stream.workers:
    return iter(dataset.to_iter_dataset(options))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain asks for them; scripts without absl parse none
  processes = grain.MultiprocessingOptions(num_workers=stream.workers)
  return iter(dataset.to_iter_dataset(options).mp_prefetch(processes))


def check_batch_size(batch_size: int, size: int) -> None:
  """Raises InputError unless a batch fits into a set of `size` examples."""
  if not 0 < batch_size <= size:
    raise InputError(
      f'--batch-size is {batch_size} and the set has {size} examples; '
      f'choose 1 to {size}'
    )


def steps_for(dataset: Dataset, epochs: int, batch_size: int) -> int:
  """Steps after which every example was seen `epochs` times; the last is rounded up.

  Raises:
    InputError: `epochs` is not positive.
  """
  if epochs < 1:
    raise InputError(f'--epochs is {epochs}; train for at least 1')
  return -(-epochs * len(dataset) // batch_size)
