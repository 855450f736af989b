"""MobileNetV3 (Howard et al., 2019) as torchvision publishes it, as timm does, with
another epsilon of batch norm, and as TensorFlow and Keras do.
"""

import flax.linen as nn

from tljax.models.base import (
  Classifier,
  DropoutLinear,
  Options,
  imagenet,
)
from tljax.models.inverted import (
  POINTWISE_AS_DENSE,
  InvertedNet,
  Plan,
  Variant,
  divisible,
  keras_rules,
  stage_names,
  timm_rules,
  torchvision_rules,
)
from tljax.models.layouts import CONV_AS_DENSE, KERAS, TORCH, Layout, Module

# By stage, its width, kernel size, stride, squeeze-and-excitation and hard swish, and
# the expanded width of each block: the paper's tables 1 and 2.
_SMALL = (
  (16, 3, 2, True, False, (16,)),
  (24, 3, 2, False, False, (72, 88)),
  (40, 5, 2, True, True, (96, 240, 240)),
  (48, 5, 1, True, True, (120, 144)),
  (96, 5, 2, True, True, (288, 576, 576)),
)
_LARGE = (
  (16, 3, 1, False, False, (16,)),
  (24, 3, 2, False, False, (64, 72)),
  (40, 5, 2, True, False, (72, 120, 120)),
  (80, 3, 2, False, True, (240, 200, 184, 184)),
  (112, 3, 1, True, True, (480, 672)),
  (160, 5, 2, True, True, (672, 960, 960)),
)
_TABLES = {'small': _SMALL, 'large': _LARGE}
_GATE = {'squeeze': nn.relu, 'gate': nn.hard_sigmoid}
_VARIANTS = {
  '': Variant(1e-3, 0.99, **_GATE),
  'timm': Variant(**_GATE),
  'keras': Variant(1e-3, 0.999, 'SAME', **_GATE),
}


def _stages(size):
  inner, stages = 16, []
  for width, kernel, stride, squeeze, hard, expanded in _TABLES[size]:
    plans = []
    for i, wide in enumerate(expanded):
      plan = Plan(
        kernel,
        stride if i == 0 else 1,
        wide,
        width,
        divisible(wide / 4) if squeeze else 0,
        nn.hard_swish if hard else nn.relu,
        expands=wide != inner,
      )
      plans.append(plan)
      inner = width
    stages.append(tuple(plans))
  return tuple(stages)


def _spec(size, **changes):
  hidden, parameters, multiply_adds = {
    'small': (1024, 2542856, 57),
    'large': (1280, 5483032, 217),
  }[size]
  return imagenet(
    stages=stage_names(_stages(size), hidden=True),
    feature_dim=hidden,
    parameters=parameters,
    multiply_adds=multiply_adds,
    **changes,
  )


_HALF = {'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'resize': 224}
SPECS = {
  'mobilenet_v3_small': _spec('small'),
  'mobilenet_v3_large': _spec('large'),
  'mobilenet_v3_small_timm': _spec('small', interpolation='bicubic'),
  'mobilenet_v3_large_timm': _spec('large', interpolation='bicubic'),
  'mobilenet_v3_small_keras': _spec('small', **_HALF),
  'mobilenet_v3_large_keras': _spec('large', **_HALF),
}


def _parse(name):
  """Size and publisher."""
  size, _, publisher = name.removeprefix('mobilenet_v3_').partition('_')
  return size, publisher


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  size, publisher = _parse(name)
  stages, spec = _stages(size), SPECS[name]
  backbone = InvertedNet(
    16,
    stages,
    6 * stages[-1][-1].width,
    nn.hard_swish,
    _VARIANTS[publisher],
    options,
    hidden=spec.feature_dim,
  )
  return Classifier(backbone, DropoutLinear(num_classes, 0.2), spec, options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format. TensorFlow's weights are timm's `tf_*` too."""
  size, publisher = _parse(name)
  stages = _stages(size)
  if publisher == 'timm':
    return {'timm': _timm_layout(stages)}
  if publisher == 'keras':
    return {
      'keras': _keras_layout(stages),
      'keras3': _keras3_layout(stages),
      'timm': _timm_layout(stages),
    }
  rules = (
    *torchvision_rules(stages, 'block', nested=False),
    Module('backbone/hidden', 'classifier.0'),
    Module('head/classifier', 'classifier.3'),
  )
  return {'torchvision': Layout(TORCH, rules)}


def _timm_layout(stages):
  top = f'blocks.{len(stages)}.0'
  rules = (
    *timm_rules(stages, (f'{top}.conv', f'{top}.bn1')),
    Module('backbone/hidden', 'conv_head', CONV_AS_DENSE),
    Module('head/classifier', 'classifier'),
  )
  return Layout(TORCH, rules)


def _keras_layout(stages):
  """The published files are older than Keras 3 and its names."""
  parts = ('expand', 'depthwise', 'project')
  names = {part: (part, f'{part}/BatchNorm') for part in parts}
  names['squeeze'] = ('squeeze_excite/Conv', 'squeeze_excite/Conv_1')
  names |= {'stem': ('Conv', 'Conv/BatchNorm'), 'top': ('Conv_1', 'Conv_1/BatchNorm')}
  rules = keras_rules(stages, _prefix('/'), names, 'depthwise_kernel')
  return Layout(KERAS, (*rules, *_keras_head('Conv_2', 'Logits')))


def _keras3_layout(stages):
  parts = ('expand', 'depthwise', 'project')
  names = {part: (part, f'{part}_bn') for part in parts}
  names['squeeze'] = ('squeeze_excite_conv', 'squeeze_excite_conv_1')
  names |= {'stem': ('conv', 'conv_bn'), 'top': ('conv_1', 'conv_1_bn')}
  rules = keras_rules(stages, _prefix('_'), names, 'kernel')
  return Layout(KERAS, (*rules, *_keras_head('conv_2', 'logits')))


def _prefix(end):
  def prefix(stage, number, index):
    return f'expanded_conv_{index}{end}' if index else f'expanded_conv{end}'

  return prefix


def _keras_head(hidden, classifier):
  return (
    Module('backbone/hidden', hidden, POINTWISE_AS_DENSE),
    Module('head/classifier', classifier, POINTWISE_AS_DENSE),
  )
