"""A network over a whole set, batch by batch: every row once, compiled once."""

import contextlib
import functools
import os
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
    run = functools.partial(predict, state)
    return in_batches(run, images, batch_size, sharding.mesh_of(state))

  return logits


def in_batches(
  function: Callable[[np.ndarray], jax.Array],
  array: np.ndarray | Images,
  batch_size: int,
  mesh: jax.sharding.Mesh | None = None,
) -> np.ndarray:
  """Returns `function(array)`, computed over batches that all have one shape.

  The padding's results are dropped, so every row counts once and the function is
  compiled once; see `padded_batches`. Every process has all results.
  """
  batches = padded_batches(array, batch_size, mesh)
  return np.concatenate([processes.fetch(function(b)) for b in batches])[: len(array)]


def _fitting(batch_size: int, height: int, width: int) -> int:
  """As many images as a CPU has activations of without a call to the kernel.

  XLA takes memory anew for each batch, and Linux clears all beyond some 32 MiB each
  time: SqueezeNet runs 1.8 times as fast at 224 pixels by 16 images as by 64, and at 96
  1.5 times as fast as by 256, LeNet 1.6, ResNet-50 and VGG16 at 224 1.2 to 1.4 times.
  """
  least = 8 * (os.cpu_count() or 1)  # that all cores are busy
  return min(batch_size, max(least, (1 << 17) // (height * width)))


def padded_batches(
  array: np.ndarray | Images, batch_size: int, mesh: jax.sharding.Mesh | None = None
) -> Iterator[np.ndarray | jax.Array]:
  """Yields batches that all have one shape: the last is padded with zeros.

  Images that are decoded as they are used are read ahead.

  Args:
    array: (N, ...).
    batch_size: rows of a batch, for each process; rounded up to fit the mesh. A CPU by
      itself takes fewer where images are large, see `_fitting`.
    mesh: its devices share each batch, and each process reads what its own take; by
      default a batch is of the host, and the same at every process.
  """
  if mesh is None and array.ndim == 4 and jax.default_backend() == 'cpu':
    batch_size = _fitting(batch_size, *array.shape[1:3])
  mine = np.arange(batch_size)
  if mesh is not None:
    batch_size = -(-batch_size * jax.process_count() // mesh.size) * mesh.size
    mine = sharding.rows_here(mesh, batch_size)

  def read(i):
    rows = i * batch_size + mine
    part = array[rows[rows < len(array)]]
    padding = [(0, len(rows) - len(part))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(part, padding)

  count = -(-len(array) // batch_size)
  with contextlib.ExitStack() as stack:
    parts = map(read, range(count))
    if not isinstance(array, np.ndarray):
      parts = read_ahead(Stream(read, None), 0, count)
      stack.enter_context(contextlib.closing(parts))
    for part in parts:
      yield part if mesh is None else sharding.shard_batch(part, mesh)
