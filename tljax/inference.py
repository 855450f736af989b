"""A network over a whole set, batch by batch: every row once, compiled once."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from tljax import processes, sharding
from tljax.data.augment import to_float
from tljax.data.batches import Stream, read_ahead
from tljax.data.images import Images
from tljax.method import Method, TrainState


@functools.lru_cache(maxsize=16)
def predictor(
  method: Method, batch_size: int = 256
) -> Callable[[TrainState, np.ndarray], np.ndarray]:
  """Returns `(state, images) -> logits` over a whole set, compiled once.

  Images are (N, H, W, C) uint8, logits (N, K) float32. Where the state is on several
  devices they share each batch, and every process has all logits.
  """
  predict = jax.jit(lambda state, images: method.predict(state, to_float(images)))

  def logits(state, images):
    mesh = sharding.mesh_of(state)
    if mesh is None:
      return in_batches(functools.partial(predict, state), images, batch_size)
    place = sharding.of_batch(mesh)

    def shared(part):
      # Every process reads the whole part; its devices take their rows of it.
      rows = jax.make_array_from_callback(part.shape, place, part.__getitem__)
      return predict(state, rows)

    return in_batches(shared, images, -(-batch_size // mesh.size) * mesh.size)

  return logits


def in_batches(
  function: Callable[[np.ndarray], jax.Array],
  array: np.ndarray | Images,
  batch_size: int,
) -> np.ndarray:
  """Returns `function(array)`, computed over batches that all have one shape.

  The padding's results are dropped, so every row counts once and the function is
  compiled once; see `padded_batches`.
  """
  parts = [processes.fetch(function(p)) for p in padded_batches(array, batch_size)]
  return np.concatenate(parts)[: len(array)]


def padded_batches(array: np.ndarray | Images, batch_size: int) -> Iterator[np.ndarray]:
  """Yields batches that all have one shape: the last is padded with zeros.

  Images that are decoded as they are used are read ahead.
  """

  def read(i):
    part = array[i * batch_size : (i + 1) * batch_size]
    padding = [(0, batch_size - len(part))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(part, padding)

  count = -(-len(array) // batch_size)
  if isinstance(array, np.ndarray):
    yield from map(read, range(count))
  else:
    with contextlib.closing(read_ahead(Stream(read, None), 0, count)) as ahead:
      yield from ahead
