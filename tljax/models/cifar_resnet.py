"""ResNet for CIFAR (He et al., 2016, section 4.2), as Idelbayev publishes it
(akamaster/pytorch_resnet_cifar10): shortcuts have no parameters, the paper's option A.
"""

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Classifier, Linear, Options, imagenet
from tljax.models.layers import Stage, batch_norm, conv
from tljax.models.layouts import TORCH, Layout, Module


def _spec(parameters, multiply_adds):
  return imagenet(
    input_size=32,
    resize=32,
    stages=('stem', 'stage1', 'stage2', 'stage3'),
    feature_dim=64,
    classes=10,
    parameters=parameters,
    multiply_adds=multiply_adds,
  )


SPECS = {
  'cifar_resnet20': _spec(269722, 41),
  'cifar_resnet32': _spec(464154, 69),
  'cifar_resnet44': _spec(658586, 98),
  'cifar_resnet56': _spec(853018, 126),
}


class Stem(nn.Module):
  """3x3 convolution."""

  options: Options

  @nn.compact
  def __call__(self, x, train):
    x = conv(16, 3, options=self.options, name='conv')(x)
    return nn.relu(batch_norm(self.options, train, 'norm')(x))


class Block(nn.Module):
  """Two 3x3 convolutions and the identity: strided, the new channels zero."""

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
    more = (self.width - x.shape[-1]) // 2
    x = x[:, :: self.stride, :: self.stride]
    x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (more, more)])
    return nn.relu(x + y)


class CifarResNet(nn.Module):
  """A stem and three stages."""

  depth: int  # blocks of each stage
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o = self.options
    outputs = {'stem': Stem(o, name='stem')(x, train)}
    x = outputs['stem']
    for i in range(3):
      name, stride = f'stage{i + 1}', 1 if i == 0 else 2
      x = Stage(Block, self.depth, 16 * 2**i, stride, o, name=name)(x, train)
      outputs[name] = x
    return {**outputs, 'map': x, 'features': jnp.mean(x, (1, 2))}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network; its number counts the layers."""
  options = Options(**options)
  layers = int(name.removeprefix('cifar_resnet'))
  backbone = CifarResNet((layers - 2) // 6, options)
  return Classifier(backbone, Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  del name
  block, theirs = r'backbone/stage(\d)/block(\d+)/', r'layer\1.\2.'
  return {
    'akamaster': Layout(
      TORCH,
      (
        Module('backbone/stem/conv', 'conv1'),
        Module('backbone/stem/norm', 'bn1'),
        Module(f'{block}conv(.)', rf'{theirs}conv\3'),
        Module(f'{block}norm(.)', rf'{theirs}bn\3'),
        Module('head/classifier', 'linear'),
      ),
    )
  }
