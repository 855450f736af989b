"""A small convolutional network for digits, trained from scratch in seconds."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Classifier, Linear, Spec
from tljax.models.convolution import Conv
from tljax.models.pooling import max_pool

SPECS = {
  'cnn': Spec(
    input_size=16,
    resize=16,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    stages=('stage1', 'stage2', 'stage3'),
    feature_dim=64,
    classes=10,
    parameters=24346,
    multiply_adds=1,
  )
}


class Stage(nn.Module):
  """3x3 convolution, batch norm, ReLU and, but for the last, 2x2 max-pool."""

  features: int
  pool: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train=False):
    o = {'dtype': self.dtype}
    x = Conv(self.features, (3, 3), use_bias=False, name='conv', **o)(x)
    norm = nn.BatchNorm(momentum=0.9, name='norm', **o)
    x = nn.relu(norm(x, use_running_average=not train))
    return max_pool(x, 2, 2) if self.pool else x


class CNN(nn.Module):
  """Three stages and the mean over space."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train=False):
    outputs = {}
    for i, features in enumerate((16, 32, 64)):
      name = f'stage{i + 1}'
      stage = Stage(features, pool=i < 2, dtype=self.dtype, name=name)
      outputs[name] = x = stage(x, train=train)
    return {**outputs, 'features': jnp.mean(x, (1, 2))}


def create(name: str, num_classes: int, dtype: Any = jnp.float32) -> Classifier:
  """Returns the network; of `base.Options` it has `dtype` alone."""
  return Classifier(CNN(dtype), Linear(num_classes), SPECS[name], dtype)
