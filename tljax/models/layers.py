"""Layers that several families share, padded and normalised as PyTorch does."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Options
from tljax.models.convolution import Conv
from tljax.models.norms import BatchNorm, LayerNorm
from tljax.models.products import Dense

_KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def conv(
  features: int,
  size: int,
  stride: int = 1,
  *,
  options: Options,
  name: str,
  groups: int = 1,
  bias: bool = False,
  padding: int | str | None = None,
) -> Conv:
  """A square convolution, padded by half its size on each side unless said."""
  return Conv(
    features,
    (size, size),
    stride,
    padding=size // 2 if padding is None else padding,
    feature_group_count=groups,
    use_bias=bias,
    dtype=options.dtype,
    kernel_init=_KERNEL_INIT,
    name=name,
  )


def batch_norm(
  options: Options,
  train: bool,
  name: str,
  *,
  epsilon: float = 1e-5,
  momentum: float = 0.9,
) -> BatchNorm:
  """Batch norm. `momentum` is flax's: 1 less PyTorch's.

  The running variance follows the biased variance of the batch, PyTorch's the
  unbiased: n / (n - 1) of it.
  """
  return BatchNorm(
    use_running_average=not train or options.frozen_norm,
    momentum=momentum,
    epsilon=epsilon,
    dtype=options.dtype,
    name=name,
  )


def layer_norm(options: Options, name: str, epsilon: float = 1e-6) -> LayerNorm:
  """Layer norm whose variance is taken in two passes, as PyTorch's is."""
  return LayerNorm(epsilon, dtype=options.dtype, name=name)


class DropPath(nn.Module):
  """Stochastic depth: drops a residual branch, example by example, in training."""

  rate: float

  @nn.compact
  def __call__(self, x, train):
    shape = tuple(range(1, x.ndim))
    return nn.Dropout(self.rate, broadcast_dims=shape)(x, deterministic=not train)


def dense(
  features: int,
  *,
  options: Options,
  name: str,
  bias: bool = True,
  kernel_init: Callable = nn.initializers.lecun_normal(),
) -> Dense:
  """A dense layer of the last axis, of any number of axes."""
  return Dense(
    features,
    bias,
    dtype=options.dtype,
    kernel_init=kernel_init,
    name=name,
  )


class SqueezeExcite(nn.Module):
  """Scales channels by a gate on their mean (Hu et al., 2018)."""

  reduced: int
  options: Options
  activation: Callable = nn.relu
  gate: Callable = nn.sigmoid

  @nn.compact
  def __call__(self, x):
    dense = functools.partial(Dense, dtype=self.options.dtype)
    scale = jnp.mean(x, (1, 2))
    scale = self.activation(dense(self.reduced, name='reduce')(scale))
    scale = self.gate(dense(x.shape[-1], name='expand')(scale))
    return x * scale[:, None, None]


class Stage(nn.Module):
  """Blocks of one resolution; the first strides.

  Attributes:
    block: its constructor takes width, stride and options.
    depth: number of blocks.
    width: of each block.
    stride: of the first.
    options: the network's.
  """

  block: type[nn.Module]
  depth: int
  width: int
  stride: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    block = self.options.block(self.block)
    for i in range(self.depth):
      stride = self.stride if i == 0 else 1
      x = block(self.width, stride, self.options, name=f'block{i}')(x, train)
    return x
