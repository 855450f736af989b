"""k nearest neighbours: the training features are the head."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tljax import losses
from tljax.extraction.head import Head

Metric = Literal['euclidean', 'cosine']


class Neighbours(nn.Module):
  """Mean target of the k nearest training examples; of classes, their shares.

  (Cover and Hart, 1967.) The examples are variables of the collection 'support'.

  Attributes:
    num_classes: K, or targets of a regression.
    examples: M, that it knows.
    k: neighbours that vote.
    metric: how near.
  """

  num_classes: int
  examples: int
  k: int = 5
  metric: Metric = 'euclidean'

  @nn.compact
  def __call__(self, outputs, train=False):
    del train
    x = outputs['features'].astype(jnp.float32)
    shapes = (self.examples, x.shape[-1]), (self.examples, self.num_classes)
    features, targets = (
      self.variable('support', name, jnp.zeros, shape).value
      for name, shape in zip(('features', 'targets'), shapes, strict=True)
    )
    if self.metric == 'cosine':
      nearness = _inner(x, _unit(features))
    else:  # minus the squared distance, plus what is the same for all examples
      centre = jnp.mean(features, 0, keepdims=True)  # rounding sees it
      x, features = x - centre, features - centre
      nearness = 2 * _inner(x, features) - jnp.sum(jnp.square(features), -1)[None]
    _, nearest = jax.lax.top_k(nearness, self.k)
    return jnp.mean(targets[nearest], 1)


def _inner(x, y):
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _unit(x):
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int | None = None,
  *,
  k: int = 5,
  metric: Metric = 'euclidean',
) -> Head:
  """Returns the head that remembers the examples.

  Args:
    features: (N, D) float32.
    labels: (N,) integer in [0, K), or targets of a regression, (N,) or (N, T).
    num_classes: K; None for a regression.
    k: neighbours that vote, at most N.
    metric: how near.
  """
  if num_classes and labels.ndim == 1:
    targets = np.asarray(losses.probabilities(jnp.asarray(labels), num_classes))
  else:
    targets = np.float32(labels.reshape(len(labels), -1))
  k = min(k, len(features))
  module = Neighbours(targets.shape[1], len(features), k, metric)
  support = {'features': np.float32(features), 'targets': targets}
  return Head(module, {'support': support})
