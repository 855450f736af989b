"""Batches as a pure function of (seed, step): an exact resume needs only the step."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.method import Batch

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (key, images) -> images


def stream(
  dataset: Dataset, batch_size: int, seed: int, augment: Augment | None = None
) -> Callable[[int], Batch]:
  """Returns `step -> {'image', 'label'}`, an endless shuffled pass over the set.

  The passes are laid end to end, each in an order of its own, and cut into batches:
  no example is dropped, and all are seen equally often.

  Args:
    dataset: the examples.
    batch_size: examples in a batch.
    seed: fixes order and augmentation.
    augment: of images (N, H, W, 3) float32 in [0, 1], jitted here.

  Raises:
    InputError: the batch is larger than the set.
  """
  size = len(dataset)
  check_batch_size(batch_size, size)

  @functools.lru_cache(maxsize=2)
  def order(epoch):
    return np.random.default_rng([seed, epoch]).permutation(size)

  key = jax.random.key(seed)

  @jax.jit
  def transform(images, step):
    images = to_float(images)
    return images if augment is None else augment(jax.random.fold_in(key, step), images)

  def batch(step):
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // size
    indices = np.concatenate(
      [order(int(e))[positions[epochs == e] % size] for e in np.unique(epochs)]
    )
    images = transform(dataset.images[indices], np.uint32(step))
    return {'image': images, 'label': jnp.asarray(dataset.labels[indices])}

  return batch


def check_batch_size(batch_size: int, size: int) -> None:
  """Raises InputError unless a batch fits into a set of `size` examples."""
  if not 0 < batch_size <= size:
    raise InputError(
      f'--batch-size is {batch_size} and the set has {size} examples; '
      f'choose 1 to {size}'
    )


def pair(
  source: Callable[[int], Batch], target: Callable[[int], Batch]
) -> Callable[[int], Batch]:
  """Returns `step -> {'source': ..., 'target': ...}` without the target's labels."""

  def batch(step):
    unlabelled = {k: v for k, v in target(step).items() if k != 'label'}
    return {'source': source(step), 'target': unlabelled}

  return batch


def to_float(images: jax.Array) -> jax.Array:
  """Maps uint8 images to float32 in [0, 1]; features, already float, stay."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255.0
  return images


def steps_for(dataset: Dataset, epochs: int, batch_size: int) -> int:
  """Steps after which every example was seen `epochs` times; the last is rounded up.

  Raises:
    InputError: `epochs` is not positive.
  """
  if epochs < 1:
    raise InputError(f'--epochs is {epochs}; train for at least 1')
  return -(-epochs * len(dataset) // batch_size)
