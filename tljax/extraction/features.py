"""Outputs of a frozen network over a whole set of images."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np

from tljax.data.augment import to_float
from tljax.data.dataset import Dataset
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
  """Returns the backbone's output at an endpoint, in evaluation mode.

  Args:
    model: a `Classifier`; its head is not run.
    variables: its variables; the head's may be missing.
    images: (N, H, W, 3) uint8.
    endpoint: such as 'features' (N, D).
    batch_size: images in one forward pass.
  """
  forward = functools.partial(_forward(model, endpoint), dict(variables))
  return in_batches(forward, images, batch_size)


def extract_splits(
  model, variables: Variables, splits: Mapping[str, Dataset], **options
) -> dict[str, Dataset]:
  """Returns the splits with features (N, D) in place of images; see `extract`."""
  return {
    name: dataclasses.replace(
      split, images=extract(model, variables, split.images, **options)
    )
    for name, split in splits.items()
  }


@functools.lru_cache(maxsize=8)
def _forward(model, endpoint):
  """Compiled once per model; the variables are arguments, not constants in the code."""
  return jax.jit(lambda v, x: model.apply(v, to_float(x), method='embed')[endpoint])
