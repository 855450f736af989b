"""BiT's ResNets (Kolesnikov et al., 2020): pre-activation (He et al., 2016) with group
norm and weight-standardised convolutions (Qiao et al., 2019), as Google and timm
publish them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.base import Classifier, Linear, Options, imagenet
from tljax.models.convolution import convolve
from tljax.models.layouts import CONV_AS_DENSE, FLAX, TORCH, Layout, Module, reshape
from tljax.models.pooling import max_pool


def _spec(factor, parameters, multiply_adds):
  return imagenet(
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    stages=('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'norm'),
    feature_dim=2048 * factor,
    parameters=parameters,
    multiply_adds=multiply_adds,
  )


SPECS = {
  'resnetv2_50x1_bit': _spec(1, 25549352, 4089),
  'resnetv2_50x3_bit': _spec(3, 217319080, 36082),
  'resnetv2_101x1_bit': _spec(1, 44541480, 7801),
  'resnetv2_101x3_bit': _spec(3, 387934888, 69492),
  'resnetv2_152x2_bit': _spec(2, 236335208, 45814),
}
_DEPTHS = {'50': (3, 4, 6, 3), '101': (3, 4, 23, 3), '152': (3, 8, 36, 3)}


class StdConv(nn.Module):
  """A square convolution without bias, whose kernel is standardised by output channel.

  The variance of a kernel has 1e-10 added, as where the weights were trained; timm
  adds 1e-8.
  """

  features: int
  size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.features)
    init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    kernel = self.param('kernel', init, shape)
    kernel -= jnp.mean(kernel, (0, 1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(kernel), (0, 1, 2), keepdims=True)
    kernel *= jax.lax.rsqrt(variance + 1e-10)
    pads = [(self.size // 2, self.size // 2)] * 2
    return convolve(x, kernel.astype(x.dtype), (self.stride, self.stride), pads)


def _norm(options, name):
  return nn.GroupNorm(
    32, epsilon=1e-5, dtype=options.dtype, use_fast_variance=False, name=name
  )


class Block(nn.Module):
  """1x1, 3x3 and 1x1 convolutions, a norm and ReLU before each, and the identity."""

  width: int  # of its output
  stride: int
  project: bool
  options: Options

  @nn.compact
  def __call__(self, x, train):
    del train
    o, inner = self.options, self.width // 4
    y = nn.relu(_norm(o, 'norm1')(x))
    if self.project:
      x = StdConv(self.width, 1, self.stride, name='shortcut')(y)
    y = StdConv(inner, 1, name='conv1')(y)
    y = nn.relu(_norm(o, 'norm2')(y))
    y = StdConv(inner, 3, self.stride, name='conv2')(y)
    y = nn.relu(_norm(o, 'norm3')(y))
    return x + StdConv(self.width, 1, name='conv3')(y)


class Stem(nn.Module):
  """7x7 convolution and 3x3 max-pool with zeros around, each with stride 2."""

  width: int

  @nn.compact
  def __call__(self, x):
    x = StdConv(self.width, 7, 2, name='conv')(x)
    return max_pool(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), 3, 2)


class Stage(nn.Module):
  """Blocks of one resolution; the first strides."""

  depth: int
  width: int
  stride: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    for i in range(self.depth):
      stride = self.stride if i == 0 else 1
      x = o.block(Block)(self.width, stride, i == 0, o, name=f'block{i}')(x, train)
    return x


class ResNetV2(nn.Module):
  """A stem, four stages, a norm and ReLU; `factor` times as wide as ResNet."""

  depths: tuple[int, ...]
  factor: int
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o = self.options
    outputs = {'stem': Stem(64 * self.factor, name='stem')(x)}
    x = outputs['stem']
    for i, depth in enumerate(self.depths):
      name, width = f'stage{i + 1}', 256 * self.factor * 2**i
      stage = Stage(depth, width, 1 if i == 0 else 2, o, name=name)
      outputs[name] = x = stage(x, train)
    x = nn.relu(_norm(o, 'norm')(x))
    return {**outputs, 'norm': x, 'map': x, 'features': jnp.mean(x, (1, 2))}


def _size(name):
  """Blocks of each stage and the width factor."""
  depth, factor = name.removeprefix('resnetv2_').removesuffix('_bit').split('x')
  return _DEPTHS[depth], int(factor)


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  backbone = ResNetV2(*_size(name), options)
  return Classifier(backbone, Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  timm = [
    Module('backbone/stem/conv', 'stem.conv'),
    Module('backbone/norm', 'norm'),
    Module('head/classifier', 'head.fc', CONV_AS_DENSE),
  ]
  conv = 'standardized_conv2d'
  width = SPECS[name].feature_dim
  google = [
    Module('backbone/stem/conv', f'resnet/root_block/{conv}'),
    Module('backbone/norm', 'resnet/group_norm'),
    Module('head/classifier', 'resnet/head/conv2d', reshape(1, 1, width, -1)),
  ]
  for stage, depth in enumerate(_size(name)[0]):
    for block in range(depth):
      ours = f'backbone/stage{stage + 1}/block{block}/'
      theirs = f'stages.{stage}.blocks.{block}.'
      timm += [
        Module(f'{ours}((?:conv|norm).)', rf'{theirs}\1'),
        Module(f'{ours}shortcut', f'{theirs}downsample.conv'),
      ]
      theirs = f'resnet/block{stage + 1}/unit{block + 1:02d}/'
      for i, letter in enumerate('abc', 1):
        google += [
          Module(f'{ours}conv{i}', f'{theirs}{letter}/{conv}'),
          Module(f'{ours}norm{i}', f'{theirs}{letter}/group_norm'),
        ]
      google.append(Module(f'{ours}shortcut', f'{theirs}a/proj/{conv}'))
  leaves = {**FLAX.leaves, 'scale': 'gamma', 'norm/bias': 'beta'}
  return {
    'timm': Layout(TORCH, tuple(timm)),
    'google': Layout(FLAX._replace(leaves=leaves), tuple(google)),
  }
