"""DenseNet (Huang et al., 2017), as torchvision, timm and Keras publish it."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Classifier, Linear, Options, imagenet
from tljax.models.layers import batch_norm, conv
from tljax.models.layouts import KERAS, TORCH, Layout, Module
from tljax.models.pooling import max_pool


def _spec(feature_dim, parameters, multiply_adds, resize=256):
  return imagenet(
    resize=resize,
    stages=('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'norm'),
    feature_dim=feature_dim,
    parameters=parameters,
    multiply_adds=multiply_adds,
  )


_PUBLISHED = {
  'densenet121': (1024, 7978856, 2834),
  'densenet161': (2208, 28681000, 7728),
  'densenet169': (1664, 14149480, 3360),
  'densenet201': (1920, 20013928, 4291),
}
SPECS = {name: _spec(*figures) for name, figures in _PUBLISHED.items()} | {
  f'{name}_keras': _spec(*figures, resize=224)
  for name, figures in _PUBLISHED.items()
  if name != 'densenet161'
}
# Channels that a layer adds, layers of each stage.
_SIZES = {
  'densenet121': (32, (6, 12, 24, 16)),
  'densenet161': (48, (6, 12, 36, 24)),
  'densenet169': (32, (6, 12, 32, 32)),
  'densenet201': (32, (6, 12, 48, 32)),
}


def _norm(options, keras):
  """Batch norm as the publisher has it; called as `(train, name)`."""
  epsilon, momentum = (1.001e-5, 0.99) if keras else (1e-5, 0.9)
  return functools.partial(batch_norm, options, epsilon=epsilon, momentum=momentum)


class DenseLayer(nn.Module):
  """1x1 and 3x3 convolutions, each behind norm and ReLU; appended to the input."""

  growth: int
  options: Options
  keras: bool

  @nn.compact
  def __call__(self, x, train):
    norm = _norm(self.options, self.keras)
    y = nn.relu(norm(train, 'norm1')(x))
    y = conv(4 * self.growth, 1, options=self.options, name='conv1')(y)
    y = nn.relu(norm(train, 'norm2')(y))
    y = conv(self.growth, 3, options=self.options, name='conv2')(y)
    return jnp.concatenate([x, y], -1)


class Stem(nn.Module):
  """7x7 convolution and 3x3 max-pool, each with stride 2."""

  width: int
  options: Options
  keras: bool

  @nn.compact
  def __call__(self, x, train):
    x = conv(self.width, 7, 2, options=self.options, name='conv')(x)
    x = _norm(self.options, self.keras)(train, 'norm')(x)
    return max_pool(nn.relu(x), 3, 2, 1)


class Stage(nn.Module):
  """A dense block; all but the first stage halve size and width beforehand."""

  depth: int
  growth: int
  transition: bool
  options: Options
  keras: bool

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    if self.transition:
      x = nn.relu(_norm(o, self.keras)(train, 'transition_norm')(x))
      x = conv(x.shape[-1] // 2, 1, options=o, name='transition_conv')(x)
      x = _halve(x)
    layer = o.block(DenseLayer)
    for i in range(self.depth):
      x = layer(self.growth, o, self.keras, name=f'block{i}')(x, train)
    return x


def _halve(x):
  """Means of 2x2 pixels."""
  n, h, w, c = x.shape
  x = x[:, : h - h % 2, : w - w % 2]
  return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


class DenseNet(nn.Module):
  """A stem, four stages, batch norm and ReLU."""

  growth: int
  depths: tuple[int, ...]
  options: Options
  keras: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    o, keras = self.options, self.keras
    x = Stem(2 * self.growth, o, keras, name='stem')(x, train)
    outputs = {'stem': x}
    for i, depth in enumerate(self.depths):
      name = f'stage{i + 1}'
      x = Stage(depth, self.growth, i > 0, o, keras, name=name)(x, train)
      outputs[name] = x
    x = nn.relu(_norm(o, keras)(train, 'norm')(x))
    return {**outputs, 'norm': x, 'map': x, 'features': jnp.mean(x, (1, 2))}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network. With `remat` a layer's activations are computed again."""
  options = Options(**options)
  size = _SIZES[name.removesuffix('_keras')]
  backbone = DenseNet(*size, options, keras=name.endswith('_keras'))
  return Classifier(backbone, Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format.

  'torchvision_2017' and 'keras_2018' are the names of when the published files were
  written, which the hubs rename or load by order: 'norm.1', now 'norm1'; 'conv1/conv'
  and 'fc1000', now 'conv1_conv' and 'predictions'.
  """
  depths = _SIZES[name.removesuffix('_keras')][1]
  if name.endswith('_keras'):
    return {
      'keras': _keras_layout(depths, 'conv1_', 'predictions'),
      'keras_2018': _keras_layout(depths, 'conv1/', 'fc1000'),
    }
  layout, old = _torch_layout(depths), _torch_layout(depths, '.')
  return {'torchvision': layout, 'torchvision_2017': old, 'timm': layout}


def _torch_layout(depths, dot=''):
  rules = [
    Module('backbone/stem/(conv|norm)', r'features.\g<1>0'),
    Module('backbone/norm', 'features.norm5'),
    Module('head/classifier', 'classifier'),
  ]
  for stage, depth in enumerate(depths):
    ours = f'backbone/stage{stage + 1}'
    theirs = f'features.transition{stage}'
    rules.append(Module(f'{ours}/transition_(conv|norm)', rf'{theirs}.\1'))
    rules += [
      Module(
        f'{ours}/block{i}/(conv|norm)(.)',
        rf'features.denseblock{stage + 1}.denselayer{i + 1}.\1{dot}\2',
      )
      for i in range(depth)
    ]
  return Layout(TORCH, tuple(rules))


def _keras_layout(depths, stem, head):
  """Their stages count from 2 (the stem is 1), a layer's first norm from 0."""
  rules = [
    Module('backbone/stem/conv', f'{stem}conv'),
    Module('backbone/stem/norm', f'{stem}bn'),
    Module('backbone/norm', 'bn'),
    Module('head/classifier', head),
  ]
  for stage, depth in enumerate(depths):
    ours = f'backbone/stage{stage + 1}'
    rules += [
      Module(f'{ours}/transition_conv', f'pool{stage + 1}_conv'),
      Module(f'{ours}/transition_norm', f'pool{stage + 1}_bn'),
    ]
    for i in range(depth):
      theirs = f'conv{stage + 2}_block{i + 1}'
      rules += [
        Module(f'{ours}/block{i}/conv(.)', rf'{theirs}_\1_conv'),
        Module(f'{ours}/block{i}/norm1', f'{theirs}_0_bn'),
        Module(f'{ours}/block{i}/norm2', f'{theirs}_1_bn'),
      ]
  return Layout(KERAS, tuple(rules))
