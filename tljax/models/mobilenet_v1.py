"""MobileNet (Howard et al., 2017) as Keras publishes it, in four widths."""

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Classifier, DropoutLinear, Options, imagenet
from tljax.models.inverted import POINTWISE_AS_DENSE, ConvNorm, Variant, conv_norm
from tljax.models.layers import Stage
from tljax.models.layouts import DEPTHWISE, KERAS, Layout, Module, Tensor

# Width, depth and stride of each stage: the paper's table 1.
_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
_STEM = 32
_SAME = Variant(epsilon=1e-3, momentum=0.99, padding='SAME')
# Keras pads the end alone, also where the size is odd, unlike 'SAME'.
_END = _SAME._replace(padding=((0, 1), (0, 1)))


def _spec(quarters, parameters, multiply_adds):
  return imagenet(
    resize=224,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    stages=('stem', *(f'stage{i + 1}' for i in range(len(_STAGES)))),
    feature_dim=256 * quarters,
    parameters=parameters,
    multiply_adds=multiply_adds,
  )


SPECS = {
  'mobilenet_v1_025': _spec(1, 470072, 41),
  'mobilenet_v1_050': _spec(2, 1331592, 150),
  'mobilenet_v1_075': _spec(3, 2585560, 325),
  'mobilenet_v1_100': _spec(4, 4231976, 569),
}


class Block(nn.Module):
  """A depthwise convolution, then a 1x1 one, each with batch norm and ReLU6."""

  width: int
  stride: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o, variant = self.options, _END if self.stride > 1 else _SAME
    x = ConvNorm(0, 3, self.stride, variant, o, nn.relu6, name='depthwise')(x, train)
    return ConvNorm(self.width, 1, 1, _SAME, o, nn.relu6, name='pointwise')(x, train)


class MobileNet(nn.Module):
  """A stem and five stages, `quarters` / 4 as wide as the paper's."""

  quarters: int
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o, q = self.options, self.quarters
    stem = ConvNorm(_STEM * q // 4, 3, 2, _SAME, o, nn.relu6, name='stem')
    outputs = {'stem': stem(x, train)}
    x = outputs['stem']
    for i, (width, depth, stride) in enumerate(_STAGES):
      name = f'stage{i + 1}'
      x = Stage(Block, depth, width * q // 4, stride, o, name=name)(x, train)
      outputs[name] = x
    return {**outputs, 'map': x, 'features': jnp.mean(x, (1, 2))}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  backbone = MobileNet(SPECS[name].feature_dim // 256, options)
  head = DropoutLinear(num_classes, 1e-3)
  return Classifier(backbone, head, SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  del name
  return {'keras': _layout('depthwise_kernel'), 'keras3': _layout('kernel')}


def _layout(depthwise):
  rules = [*conv_norm('backbone/stem', 'conv1', 'conv1_bn')]
  number = 0
  for i, (_, depth, _) in enumerate(_STAGES):
    for k in range(depth):
      number += 1
      ours = f'backbone/stage{i + 1}/block{k}'
      for part, theirs in (('depthwise', 'conv_dw'), ('pointwise', 'conv_pw')):
        theirs = f'{theirs}_{number}'
        if part == 'depthwise':
          kernel = f'{ours}/{part}/conv/kernel'
          rules.append(Tensor(kernel, f'{theirs}/{depthwise}', DEPTHWISE))
        rules += conv_norm(f'{ours}/{part}', theirs, f'{theirs}_bn')
  head = Module('head/classifier', 'conv_preds', POINTWISE_AS_DENSE)
  return Layout(KERAS, (*rules, head))
