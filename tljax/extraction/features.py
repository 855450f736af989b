"""Outputs of a frozen network over a whole set of images."""

import functools

import jax
import numpy as np

from tljax.data.batches import to_float
from tljax.method import Variables
from tljax.train import in_batches


def extract(
  model,
  variables: Variables,
  images: np.ndarray,
  *,
  endpoint: str = 'features',
  batch_size: int = 64,
) -> np.ndarray:
  """Returns the network's output at an endpoint, in evaluation mode.

  Args:
    model: outputs by endpoint.
    variables: what its `apply` takes.
    images: (N, H, W, 3) uint8.
    endpoint: such as 'features' (N, D).
    batch_size: images in one forward pass.
  """
  forward = functools.partial(_forward(model, endpoint), dict(variables))
  return in_batches(forward, images, batch_size)


@functools.lru_cache(maxsize=8)
def _forward(model, endpoint):
  """Compiled once per model; the variables are arguments, not constants in the code."""
  return jax.jit(lambda v, x: model.apply(v, to_float(x), train=False)[endpoint])
