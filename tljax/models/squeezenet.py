"""SqueezeNet (Iandola et al., 2016), as torchvision publishes it, and as Keras' users
do: with the weights of its authors.
"""

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import (
  CAFFE,
  Classifier,
  Options,
  imagenet,
)
from tljax.models.convolution import Conv
from tljax.models.layouts import KERAS, TORCH, Layout, Module
from tljax.models.pooling import max_pool


def _spec(parameters, multiply_adds, **changes):
  return imagenet(
    stages=('stage1', 'stage2', 'stage3', 'stage4'),
    feature_dim=512,
    parameters=parameters,
    multiply_adds=multiply_adds,
    **changes,
  )


SPECS = {
  'squeezenet1_0': _spec(1248424, 819),
  'squeezenet1_1': _spec(1235496, 349),
  'squeezenet1_1_keras': _spec(1235496, 349, **(CAFFE | {'resize': 256})),
}
# Width and size of the first convolution.
_STEMS = {'1_0': (96, 7), '1_1': (64, 3)}
# Squeeze widths of each stage's fire modules; they expand to eight times as much. A
# max-pool stands between the stages.
_FIRES = {
  '1_0': ((16, 16, 32), (32, 48, 48, 64), (64,)),
  '1_1': ((16, 16), (32, 32), (48, 48, 64, 64)),
}


class Fire(nn.Module):
  """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

  squeeze: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    del train
    dtype, expand = self.options.dtype, 4 * self.squeeze
    x = nn.relu(Conv(self.squeeze, (1, 1), dtype=dtype, name='squeeze')(x))
    parts = [
      Conv(expand, (1, 1), dtype=dtype, name='expand1x1')(x),
      Conv(expand, (3, 3), dtype=dtype, name='expand3x3')(x),
    ]
    return nn.relu(jnp.concatenate(parts, -1))


class Stem(nn.Module):
  """The strided first convolution."""

  width: int
  size: int
  options: Options

  @nn.compact
  def __call__(self, x):
    size, dtype = (self.size, self.size), self.options.dtype
    conv = Conv(self.width, size, 2, padding='VALID', dtype=dtype, name='conv')
    return nn.relu(conv(x))


class Stage(nn.Module):
  """Max-pool, then fire modules."""

  squeezes: tuple[int, ...]
  ceil: bool
  options: Options

  @nn.compact
  def __call__(self, x, train):
    x = max_pool(x, 3, 2, ceil=self.ceil)
    for i, squeeze in enumerate(self.squeezes):
      fire = self.options.block(Fire)
      x = fire(squeeze, self.options, name=f'fire{i + 1}')(x, train)
    return x


class SqueezeNet(nn.Module):
  """SqueezeNet without its classifier.

  Attributes:
    version: '1_0' or '1_1'.
    ceil: whether windows of the pools may overhang.
    options: of the computation.
  """

  version: str
  ceil: bool
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    x = Stem(*_STEMS[self.version], self.options, name='stage1')(x)
    outputs = {'stage1': x}
    for i, squeezes in enumerate(_FIRES[self.version]):
      name = f'stage{i + 2}'
      x = Stage(squeezes, self.ceil, self.options, name=name)(x, train)
      outputs[name] = x
    return {**outputs, 'map': x, 'features': jnp.mean(x, (1, 2))}


class ConvHead(nn.Module):
  """The published classifier: dropout, 1x1 convolution, ReLU, mean over space."""

  num_classes: int

  @nn.compact
  def __call__(self, outputs, train=False):
    x = nn.Dropout(0.5)(outputs['map'], deterministic=not train)
    x = Conv(self.num_classes, (1, 1), name='classifier')(x.astype(jnp.float32))
    return jnp.mean(nn.relu(x), (1, 2))


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network with its published kind of head."""
  options = Options(**options)
  keras = name.endswith('_keras')
  backbone = SqueezeNet(_version(name), not keras, options)
  return Classifier(backbone, ConvHead(num_classes), SPECS[name], options.dtype)


def _version(name):
  return name.removeprefix('squeezenet').removesuffix('_keras')


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format.

  torchvision numbers the fire modules with the pools, Keras from 2 without them.
  """
  torchvision = [
    Module('backbone/stage1/conv', 'features.0'),
    Module('head/classifier', 'classifier.1'),
  ]
  keras = [
    Module('backbone/stage1/conv', 'conv1'),
    Module('head/classifier', 'conv10'),
  ]
  number = 2
  for s, squeezes in enumerate(_FIRES[_version(name)]):
    for i in range(len(squeezes)):
      ours = f'backbone/stage{s + 2}/fire{i + 1}'
      torchvision.append(Module(f'{ours}/(.*)', rf'features.{number + s + 1}.\1'))
      keras.append(Module(f'{ours}/squeeze', f'fire{number}/squeeze1x1'))
      keras.append(Module(f'{ours}/(expand.*)', rf'fire{number}/\1'))
      number += 1
  if name.endswith('_keras'):
    return {'keras': Layout(KERAS, tuple(keras))}
  return {'torchvision': Layout(TORCH, tuple(torchvision))}
