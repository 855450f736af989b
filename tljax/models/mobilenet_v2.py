"""MobileNetV2 (Sandler et al., 2018) as torchvision and timm publish it, and as Keras
and MXNet's Gluon do.
"""

import itertools

import flax.linen as nn

from tljax.models.base import (
  Classifier,
  DropoutLinear,
  Linear,
  Options,
  imagenet,
)
from tljax.models.inverted import (
  InvertedNet,
  Plan,
  Variant,
  conv_norm,
  keras_rules,
  stage_names,
  timm_rules,
  torchvision_rules,
)
from tljax.models.layouts import CONV_AS_DENSE, KERAS, TORCH, Layout, Module

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


def _stages(gluon=False):
  """Gluon's has ReLU, expands in the first block too, and strides a stage later, before
  the width 96, as the statistics in its batch norms tell.
  """
  strides = (1, 2, 2, 1, 2, 2, 1) if gluon else [stage[3] for stage in _STAGES]
  stages, inner = [], 32
  for (expansion, width, depth, _), stride in zip(_STAGES, strides, strict=True):
    plans = []
    for i in range(depth):
      plan = Plan(3, stride if i == 0 else 1, inner * expansion, width)
      if gluon:
        plan = plan._replace(activation=nn.relu)
      plans.append(plan._replace(expands=gluon or expansion > 1))
      inner = width
    stages.append(tuple(plans))
  return tuple(stages)


def _spec(parameters=3504872, multiply_adds=301, **changes):
  return imagenet(
    stages=stage_names(_stages()),
    feature_dim=1280,
    parameters=parameters,
    multiply_adds=multiply_adds,
    **changes,
  )


SPECS = {
  'mobilenet_v2': _spec(),
  'mobilenet_v2_keras': _spec(resize=224, mean=(0.5,) * 3, std=(0.5,) * 3),
  'mobilenet_v2_gluon': _spec(parameters=3505960, multiply_adds=429),
}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  stages, activation, variant = _stages(), nn.relu6, Variant()
  head = Linear(num_classes)
  if name == 'mobilenet_v2':
    head = DropoutLinear(num_classes, 0.2)
  elif name.endswith('_keras'):
    variant = _KERAS
  else:
    stages, activation = _stages(gluon=True), nn.relu
  backbone = InvertedNet(32, stages, 1280, activation, variant, options)
  return Classifier(backbone, head, SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format.

  Keras called the classifier 'Logits' when the published files were written, and loads
  them by order.
  """
  stages = _stages()
  if name.endswith('_gluon'):
    return {'gluon': _gluon_layout()}
  if name.endswith('_keras'):
    return {
      'keras': _keras_layout(stages, 'depthwise_kernel', 'predictions'),
      'keras_2018': _keras_layout(stages, 'depthwise_kernel', 'Logits'),
      'keras3': _keras_layout(stages, 'kernel', 'predictions'),
    }
  theirs = torchvision_rules(stages, 'conv', nested=False, bare=True)
  timm = timm_rules(stages, ('conv_head', 'bn2'))
  return {
    'torchvision': Layout(TORCH, (*theirs, Module('head/classifier', 'classifier.1'))),
    'timm': Layout(TORCH, (*timm, Module('head/classifier', 'classifier'))),
  }


def _keras_layout(stages, depthwise, head):
  names = {part: (part, f'{part}_BN') for part in ('expand', 'depthwise', 'project')}
  names |= {'stem': ('Conv1', 'bn_Conv1'), 'top': ('Conv_1', 'Conv_1_bn')}

  def prefix(stage, number, index):
    return f'block_{index}_' if index else 'expanded_conv_'

  rules = keras_rules(stages, prefix, names, depthwise)
  return Layout(KERAS, (*rules, Module('head/classifier', head)))


def _gluon_layout():
  """Gluon's classifier has no bias; a file with the classifier needs one of zeros."""
  convention = TORCH._replace(
    separator='_', leaves={**TORCH.leaves, 'scale': 'gamma', 'norm/bias': 'beta'}
  )
  prefix, number = 'mobilenetv20_features_', itertools.count()
  rules = [
    *conv_norm('backbone/stem', f'{prefix}conv0', f'{prefix}batchnorm0'),
    *conv_norm('backbone/top', f'{prefix}conv1', f'{prefix}batchnorm1'),
    Module('head/classifier', 'mobilenetv20_output_pred', CONV_AS_DENSE),
  ]
  for s, plans in enumerate(_stages(gluon=True)):
    for b in range(len(plans)):
      theirs = f'{prefix}linearbottleneck{next(number)}_'
      for k, part in enumerate(('expand', 'depthwise', 'project')):
        ours = f'backbone/stage{s + 1}/block{b}/{part}'
        rules += conv_norm(ours, f'{theirs}conv{k}', f'{theirs}batchnorm{k}')
  return Layout(convention, tuple(rules))
