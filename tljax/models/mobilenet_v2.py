"""MobileNetV2 (Sandler et al., 2018) as torchvision and timm publish it, and as Keras
and MXNet's Gluon do.
"""

import flax.linen as nn

from tljax.models.base import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  Classifier,
  DropoutLinear,
  Linear,
  Options,
  Spec,
)
from tljax.models.inverted import (
  InvertedNet,
  Plan,
  Variant,
  keras_rules,
  stage_names,
  timm_rules,
  torchvision_rules,
)
from tljax.models.layouts import KERAS, TORCH, Layout, Module

# Expansion, width, depth and stride of each stage: the paper's table 2.
_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
_KERAS = Variant(epsilon=1e-3, momentum=0.999, padding='SAME')


def _stages():
  stages, inner = [], 32
  for expansion, width, depth, stride in _STAGES:
    plans = []
    for i in range(depth):
      plan = Plan(3, stride if i == 0 else 1, inner * expansion, width)
      plans.append(plan._replace(expands=expansion > 1))
      inner = width
    stages.append(tuple(plans))
  return tuple(stages)


def _spec(**changes):
  return Spec(
    **{
      'input_size': 224,
      'resize': 256,
      'mean': IMAGENET_MEAN,
      'std': IMAGENET_STD,
      'stages': stage_names(_stages()),
      'feature_dim': 1280,
      'parameters': 3504872,
      'multiply_adds': 301,
      **changes,
    }
  )


SPECS = {
  'mobilenet_v2': _spec(),
  'mobilenet_v2_keras': _spec(resize=224, mean=(0.5,) * 3, std=(0.5,) * 3),
}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  variant, head = Variant(), DropoutLinear(num_classes, 0.2)
  if name.endswith('_keras'):
    variant, head = _KERAS, Linear(num_classes)
  backbone = InvertedNet(32, _stages(), 1280, nn.relu6, variant, options)
  return Classifier(backbone, head, SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  stages = _stages()
  if name.endswith('_keras'):
    return {
      'keras': _keras_layout(stages, 'depthwise_kernel'),
      'keras3': _keras_layout(stages, 'kernel'),
    }
  theirs = torchvision_rules(stages, 'conv', nested=False, bare=True)
  timm = timm_rules(stages, ('conv_head', 'bn2'))
  return {
    'torchvision': Layout(TORCH, (*theirs, Module('head/classifier', 'classifier.1'))),
    'timm': Layout(TORCH, (*timm, Module('head/classifier', 'classifier'))),
  }


def _keras_layout(stages, depthwise):
  names = {part: (part, f'{part}_BN') for part in ('expand', 'depthwise', 'project')}
  names |= {'stem': ('Conv1', 'bn_Conv1'), 'top': ('Conv_1', 'Conv_1_bn')}

  def prefix(stage, number, index):
    return f'block_{index}_' if index else 'expanded_conv_'

  rules = keras_rules(stages, prefix, names, depthwise)
  return Layout(KERAS, (*rules, Module('head/classifier', 'predictions')))
