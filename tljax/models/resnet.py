"""ResNet (He et al., 2016), ResNeXt (Xie et al., 2017) and Wide ResNet (Zagoruyko and
Komodakis, 2016) as torchvision publishes them, the stride on the 3x3 convolution; and
ResNet as Keras does, the stride on the first 1x1, with biases.
"""

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import (
  CAFFE,
  Classifier,
  Linear,
  Options,
  imagenet,
)
from tljax.models.layers import batch_norm, conv
from tljax.models.layouts import KERAS, TORCH, Layout, Module
from tljax.models.pooling import max_pool

_STAGES = ('stem', 'stage1', 'stage2', 'stage3', 'stage4')


def _spec(parameters, multiply_adds, feature_dim=2048, **changes):
  return imagenet(
    stages=_STAGES,
    feature_dim=feature_dim,
    parameters=parameters,
    multiply_adds=multiply_adds,
    **changes,
  )


SPECS = {
  'resnet18': _spec(11689512, 1814, 512),
  'resnet34': _spec(21797672, 3664, 512),
  'resnet50': _spec(25557032, 4089),
  'resnet101': _spec(44549160, 7801),
  'resnet152': _spec(60192808, 11514),
  'resnext50_32x4d': _spec(25028904, 4230),
  'wide_resnet50_2': _spec(68883240, 11398),
  'resnet50_keras': _spec(25583592, 3862, **CAFFE),
  'resnet101_keras': _spec(44601832, 7572, **CAFFE),
  'resnet152_keras': _spec(60268520, 11283, **CAFFE),
}
_DEPTHS = {
  '18': (2, 2, 2, 2),
  '34': (3, 4, 6, 3),
  '50': (3, 4, 6, 3),
  '101': (3, 4, 23, 3),
  '152': (3, 8, 36, 3),
}


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and the identity."""

  width: int
  stride: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    y = conv(self.width, 3, self.stride, options=o, name='conv1')(x)
    y = nn.relu(batch_norm(o, train, 'norm1')(y))
    y = conv(self.width, 3, options=o, name='conv2')(y)
    y = batch_norm(o, train, 'norm2')(y)
    if x.shape != y.shape:
      x = conv(self.width, 1, self.stride, options=o, name='shortcut_conv')(x)
      x = batch_norm(o, train, 'shortcut_norm')(x)
    return nn.relu(x + y)


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and the identity; four times wider at the end."""

  width: int  # of the stage: 64, 128, ...
  stride: int
  options: Options
  groups: int = 1
  group_width: int = 64  # of the 3x3 convolution, at the first stage
  keras: bool = False
  project: bool = False

  @nn.compact
  def __call__(self, x, train):
    o, keras = self.options, self.keras
    inner = self.width * self.group_width // 64 * self.groups
    strides = (self.stride, 1) if keras else (1, self.stride)
    epsilon, momentum = (1.001e-5, 0.99) if keras else (1e-5, 0.9)

    def norm(y, name):
      return batch_norm(o, train, name, epsilon=epsilon, momentum=momentum)(y)

    y = conv(inner, 1, strides[0], bias=keras, options=o, name='conv1')(x)
    y = nn.relu(norm(y, 'norm1'))
    y = conv(
      inner, 3, strides[1], groups=self.groups, bias=keras, options=o, name='conv2'
    )(y)
    y = nn.relu(norm(y, 'norm2'))
    y = conv(4 * self.width, 1, bias=keras, options=o, name='conv3')(y)
    y = norm(y, 'norm3')
    if self.project:
      x = conv(
        4 * self.width, 1, self.stride, bias=keras, options=o, name='shortcut_conv'
      )(x)
      x = norm(x, 'shortcut_norm')
    return nn.relu(x + y)


class Stem(nn.Module):
  """7x7 convolution and 3x3 max-pool, each with stride 2."""

  options: Options
  keras: bool

  @nn.compact
  def __call__(self, x, train):
    epsilon, momentum = (1.001e-5, 0.99) if self.keras else (1e-5, 0.9)
    x = conv(64, 7, 2, bias=self.keras, options=self.options, name='conv')(x)
    norm = batch_norm(self.options, train, 'norm', epsilon=epsilon, momentum=momentum)
    return max_pool(nn.relu(norm(x)), 3, 2, 1)


class Stage(nn.Module):
  """Blocks of one resolution; the first strides."""

  depth: int
  width: int
  stride: int
  basic: bool
  options: Options
  block_options: tuple = ()

  @nn.compact
  def __call__(self, x, train):
    for i in range(self.depth):
      stride, name = (self.stride, 1)[i > 0], f'block{i}'
      if self.basic:
        block = self.options.block(BasicBlock)
        x = block(self.width, stride, self.options, name=name)(x, train)
      else:
        block = self.options.block(Bottleneck)
        x = block(
          self.width,
          stride,
          self.options,
          project=i == 0,
          name=name,
          **dict(self.block_options),
        )(x, train)
    return x


class ResNet(nn.Module):
  """A stem and four stages."""

  depths: tuple[int, ...]
  basic: bool
  options: Options
  block_options: tuple = ()

  @nn.compact
  def __call__(self, x, train=False):
    keras = dict(self.block_options).get('keras', False)
    outputs = {'stem': Stem(self.options, keras, name='stem')(x, train)}
    x = outputs['stem']
    for i, depth in enumerate(self.depths):
      name, stride = f'stage{i + 1}', 1 if i == 0 else 2
      stage = Stage(
        depth,
        64 * 2**i,
        stride,
        self.basic,
        self.options,
        self.block_options,
        name=name,
      )
      outputs[name] = x = stage(x, train)
    return {**outputs, 'map': x, 'features': jnp.mean(x, (1, 2))}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  block_options = {
    'resnext50_32x4d': (('groups', 32), ('group_width', 4)),
    'wide_resnet50_2': (('group_width', 128),),
  }.get(name, (('keras', True),) if name.endswith('_keras') else ())
  depth = {'resnext50_32x4d': '50', 'wide_resnet50_2': '50'}.get(
    name, name.removeprefix('resnet').removesuffix('_keras')
  )
  backbone = ResNet(_DEPTHS[depth], depth in ('18', '34'), options, block_options)
  return Classifier(backbone, Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format.

  Keras called the classifier 'probs' when the published files were written, and loads
  them by order.
  """
  if name.endswith('_keras'):
    return {'keras': _keras_layout('predictions'), 'keras_2019': _keras_layout('probs')}
  block, theirs = r'backbone/stage(\d)/block(\d+)/', r'layer\1.\2.'
  layout = Layout(
    TORCH,
    (
      Module('backbone/stem/conv', 'conv1'),
      Module('backbone/stem/norm', 'bn1'),
      Module(f'{block}conv(.)', rf'{theirs}conv\3'),
      Module(f'{block}norm(.)', rf'{theirs}bn\3'),
      Module(f'{block}shortcut_conv', f'{theirs}downsample.0'),
      Module(f'{block}shortcut_norm', f'{theirs}downsample.1'),
      Module('head/classifier', 'fc'),
    ),
  )
  return {'torchvision': layout, 'timm': layout}


def _keras_layout(head):
  """Their stages count from 2 (the stem is 1), their blocks and shortcuts from 1, 0."""
  rules = [
    Module('backbone/stem/conv', 'conv1_conv'),
    Module('backbone/stem/norm', 'conv1_bn'),
    Module('head/classifier', head),
  ]
  for stage in range(1, 5):
    for block in range(36):
      ours = f'backbone/stage{stage}/block{block}/'
      theirs = f'conv{stage + 1}_block{block + 1}_'
      rules += [
        Module(f'{ours}conv(.)', rf'{theirs}\1_conv'),
        Module(f'{ours}norm(.)', rf'{theirs}\1_bn'),
        Module(f'{ours}shortcut_conv', f'{theirs}0_conv'),
        Module(f'{ours}shortcut_norm', f'{theirs}0_bn'),
      ]
  return Layout(KERAS, tuple(rules))
