"""Heads that published methods of adaptation have in place of a linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.products import Dense, product


class Hidden(nn.Module):
  """Hidden layers with ReLU, then a linear one, on the pooled features.

  Attributes:
    num_classes: K.
    widths: of the hidden layers.
    rates: of dropout before each of them, and before the last.
    batch_norm: whether the hidden layers have one, of all images as one batch.
  """

  num_classes: int
  widths: tuple[int, ...]
  rates: tuple[float, ...]
  batch_norm: bool = False

  @nn.compact
  def __call__(self, outputs, train=False):
    def drop(x, rate):
      return nn.Dropout(rate)(x, deterministic=not train)

    x, (*rates, last) = outputs['features'].astype(jnp.float32), self.rates
    for i, (width, rate) in enumerate(zip(self.widths, rates, strict=True), 1):
      dense = Dense(width, use_bias=not self.batch_norm, name=f'fc{i}')
      x = dense(drop(x, rate))
      if self.batch_norm:
        x = nn.BatchNorm(not train, momentum=0.9, name=f'norm{i}')(x)
      x = nn.relu(x)
    return Dense(self.num_classes, name='classifier')(drop(x, last))


class WeightNorm(nn.Module):
  """A linear head whose kernel is a length times a direction, class by class.

  (Salimans & Kingma, 2016.) It starts from lengths of 1, about those of `Linear`.
  """

  num_classes: int

  @nn.compact
  def __call__(self, outputs, train=False):
    del train
    layer = _WeightNormed(self.num_classes, name='classifier')
    return layer(outputs['features'].astype(jnp.float32))


class _WeightNormed(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = x.shape[-1], self.width
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    scale = self.param('scale', nn.initializers.ones, shape[1:])
    bias = self.param('bias', nn.initializers.zeros, shape[1:])
    factor = scale * jax.lax.rsqrt(jnp.sum(kernel * kernel, 0))
    return product(x, kernel * factor[None]) + bias[None]
