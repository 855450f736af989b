"""VGG (Simonyan and Zisserman, 2015), as torchvision, timm and Keras publish it."""

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import (
  CAFFE,
  Classifier,
  FlattenMLP,
  Options,
  imagenet,
)
from tljax.models.layers import batch_norm, conv
from tljax.models.layouts import (
  CONV_AS_DENSE,
  KERAS,
  TORCH,
  Layout,
  Module,
  Tensor,
  flattened,
)
from tljax.models.pooling import adaptive_mean_pool, max_pool

_WIDTHS = (64, 128, 256, 512, 512)
_DEPTHS = {
  '11': (1, 1, 2, 2, 2),
  '13': (2, 2, 2, 2, 2),
  '16': (2, 2, 3, 3, 3),
  '19': (2, 2, 4, 4, 4),
}


def _spec(parameters, multiply_adds, **changes):
  return imagenet(
    stages=tuple(f'stage{i + 1}' for i in range(5)),
    feature_dim=512,
    parameters=parameters,
    multiply_adds=multiply_adds,
    **changes,
  )


SPECS = {
  'vgg11': _spec(132863336, 7609),
  'vgg13': _spec(133047848, 11308),
  'vgg16': _spec(138357544, 15470),
  'vgg19': _spec(143667240, 19632),
  'vgg11_bn': _spec(132868840, 7609),
  'vgg13_bn': _spec(133053736, 11308),
  'vgg16_bn': _spec(138365992, 15470),
  'vgg19_bn': _spec(143678248, 19632),
  'vgg16_keras': _spec(138357544, 15470, **CAFFE),
  'vgg19_keras': _spec(143667240, 19632, **CAFFE),
}


class Stage(nn.Module):
  """3x3 convolutions of one width and a 2x2 max-pool."""

  depth: int
  width: int
  has_norm: bool
  options: Options

  @nn.compact
  def __call__(self, x, train):
    for i in range(1, self.depth + 1):
      x = conv(self.width, 3, bias=True, options=self.options, name=f'conv{i}')(x)
      if self.has_norm:
        x = batch_norm(self.options, train, f'norm{i}')(x)
      x = nn.relu(x)
    return max_pool(x, 2, 2)


class VGG(nn.Module):
  """Five stages. 'map' is the last one's, 7x7 for the published size."""

  depths: tuple[int, ...]
  has_norm: bool
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    outputs, stage = {}, self.options.block(Stage)
    for i, (depth, width) in enumerate(zip(self.depths, _WIDTHS, strict=True)):
      name = f'stage{i + 1}'
      x = stage(depth, width, self.has_norm, self.options, name=name)(x, train)
      outputs[name] = x
    return {**outputs, 'map': x, 'features': jnp.mean(x, (1, 2))}


class PooledMLP(FlattenMLP):
  """torchvision's head: pools images of other sizes to a map of 7x7 beforehand."""

  def __call__(self, outputs, train=False):
    outputs = {**outputs, 'map': adaptive_mean_pool(outputs['map'], 7)}
    return super().__call__(outputs, train=train)


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network.

  Keras' takes images of the published size alone; it has the paper's dropout, which
  Keras leaves out.
  """
  options = Options(**options)
  size, _, suffix = name.removeprefix('vgg').partition('_')
  backbone = VGG(_DEPTHS[size], suffix == 'bn', options)
  head = FlattenMLP if suffix == 'keras' else PooledMLP
  head = head(num_classes, (4096, 4096), dtype=options.dtype)
  return Classifier(backbone, head, SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  size, _, suffix = name.removeprefix('vgg').partition('_')
  if suffix == 'keras':
    return {
      'keras': Layout(
        KERAS,
        (
          Module(r'backbone/stage(\d)/conv(\d)', r'block\1_conv\2'),
          Module('head/(fc.)', r'\1'),
          Module('head/classifier', 'predictions'),
        ),
      )
    }
  features = _features(_DEPTHS[size], suffix == 'bn')
  kernel = 'head/fc1/kernel'
  torchvision = (
    Tensor(kernel, 'classifier.0.weight', flattened(512, 7, 7, -1, 512 * 7 * 7)),
    Module('head/fc1', 'classifier.0'),
    Module('head/fc2', 'classifier.3'),
    Module('head/classifier', 'classifier.6'),
  )
  timm = (
    Tensor(kernel, 'pre_logits.fc1.weight', flattened(512, 7, 7, -1, 512, 7, 7)),
    Module('head/(fc.)', r'pre_logits.\1', CONV_AS_DENSE),
    Module('head/classifier', 'head.fc'),
  )
  return {
    'torchvision': Layout(TORCH, (*features, *torchvision)),
    'timm': Layout(TORCH, (*features, *timm)),
  }


def _features(depths, has_norm):
  """Theirs are numbered through, with the ReLUs and pools."""
  rules, number = [], 0
  for stage, depth in enumerate(depths):
    for i in range(1, depth + 1):
      ours = f'backbone/stage{stage + 1}'
      rules.append(Module(f'{ours}/conv{i}', f'features.{number}'))
      rules.append(Module(f'{ours}/norm{i}', f'features.{number + 1}'))
      number += 3 if has_norm else 2
    number += 1
  return rules
