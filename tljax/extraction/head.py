"""A trained head: what every `fit` of this folder returns, and what it joins."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from tljax.extraction.features import Pooling, below_head, pool
from tljax.inference import in_batches
from tljax.method import Variables
from tljax.models.base import Classifier, FlattenMLP, Linear


class Head(NamedTuple):
  """A trained head of a classifier, or of a regression.

  Attributes:
    module: `(outputs, train) -> logits` (N, K), as a `Classifier` has it.
    variables: its own.
  """

  module: nn.Module
  variables: Variables

  def logits(self, features: np.ndarray) -> np.ndarray:
    """Maps features (N, ...) to logits (N, K), or a regression's predictions."""
    run = functools.partial(_apply(self.module), self.variables)
    return in_batches(run, features, batch_size=1024)


@functools.lru_cache(maxsize=32)
def _apply(module):
  return jax.jit(lambda v, features: module.apply(v, as_outputs(features)))


def as_outputs(features: jax.Array) -> dict[str, jax.Array]:
  """Features in place of a backbone's outputs, wherever a head looks for them."""
  return {'features': features, 'map': features}


def linear(kernel: np.ndarray, bias: np.ndarray) -> Head:
  """Returns the head of a kernel (D, K) and a bias (K,), as float32."""
  classifier = {'kernel': np.float32(kernel), 'bias': np.float32(bias)}
  return Head(Linear(len(bias)), {'params': {'classifier': classifier}})


def linear_of_seen(
  kernel: np.ndarray, bias: np.ndarray, seen: np.ndarray, num_classes: int
) -> Head:
  """As `linear`, of the classes `seen`; the logit of one without examples is -1e30."""
  columns = np.zeros((len(kernel), num_classes))
  biases = np.full(num_classes, -1e30)
  columns[:, seen], biases[seen] = kernel, bias
  return linear(columns, biases)


def standardized(fit: Callable[..., Head]) -> Callable[..., Head]:
  """Returns `fit` of linear heads for features that are standardised beforehand.

  A penalty on weights means the same for each feature then. The head that comes back
  takes the features as they are. One that is constant in training has no weight.
  """

  def standardized_fit(features, *args, **options):
    mean = features.mean(0, dtype=np.float64)
    std = features.std(0, dtype=np.float64)
    inverse = np.divide(1, std, where=std > 1e-6 * abs(mean), out=np.zeros_like(std))
    scaled = np.float32((features - np.float32(mean)) * np.float32(inverse))
    head = fit(scaled, *args, **options)
    classifier = head.variables['params']['classifier']
    kernel = inverse[:, None] * classifier['kernel']
    return linear(kernel, classifier['bias'] - mean @ kernel)

  return standardized_fit


def rescaled(head: Head, scale: np.ndarray, offset: np.ndarray) -> Head:
  """Returns the head whose outputs are scale (T,) times the head's, plus offset (T,).

  It is one whose last layer is called 'classifier', as all that are trained have it.
  """
  params = head.variables['params']
  last = params['classifier']
  last = {'kernel': last['kernel'] * scale[None], 'bias': last['bias'] * scale + offset}
  variables = {**head.variables, 'params': {**params, 'classifier': last}}
  return head._replace(variables=variables)


class At(nn.Module):
  """A head on another endpoint than its own, or a pooled one; see `extract`."""

  head: nn.Module
  endpoint: str
  pooling: Pooling | None = None

  def __call__(self, outputs, train=False):
    features = pool(outputs[self.endpoint], self.pooling)
    return self.head(as_outputs(features), train=train)


def join(
  model: Classifier,
  variables: Variables,
  head: Head,
  endpoint: str = 'features',
  pooling: Pooling | None = None,
) -> tuple[Classifier, Variables]:
  """Returns backbone and head as one classifier of images, and its variables.

  Args:
    model: what the features were extracted by.
    variables: its variables; of its own head nothing is kept.
    head: trained on the features.
    endpoint: that was extracted.
    pooling: likewise.
  """
  own = 'map' if isinstance(head.module, FlattenMLP) else 'features'
  module, parts = head
  if (endpoint, pooling) != (own, None):
    module = At(head.module, endpoint, pooling)
    parts = {collection: {'head': tree} for collection, tree in parts.items()}
  joined = below_head(variables)
  for collection, tree in parts.items():
    joined[collection] = {**joined.get(collection, {}), 'head': tree}
  return model.clone(head=module), joined
