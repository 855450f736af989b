"""EfficientNet (Tan and Le, 2019) as torchvision and timm publish it, and as
TensorFlow and Keras do.
"""

import math

import flax.linen as nn

from tljax.models.base import (
  Classifier,
  DropoutLinear,
  Options,
  imagenet,
)
from tljax.models.inverted import (
  InvertedNet,
  Plan,
  Variant,
  divisible,
  keras_rules,
  stage_names,
  timm_rules,
  torchvision_rules,
)
from tljax.models.layouts import KERAS, TORCH, Layout, Module

# Expansion, kernel size, stride, width and depth of B0's stages: the paper's table 1.
_STAGES = (
  (1, 3, 1, 16, 1),
  (6, 3, 2, 24, 2),
  (6, 5, 2, 40, 2),
  (6, 3, 2, 80, 3),
  (6, 5, 1, 112, 3),
  (6, 5, 2, 192, 4),
  (6, 3, 1, 320, 1),
)
# By name, the factors of width and depth, and the rate of dropout.
_SCALES = {
  'b0': (1.0, 1.0, 0.2),
  'b1': (1.0, 1.1, 0.2),
  'b2': (1.1, 1.2, 0.3),
  'b3': (1.2, 1.4, 0.3),
  'b4': (1.4, 1.8, 0.4),
}
_TORCH = Variant(squeeze=nn.silu)
_KERAS = Variant(1e-3, 0.99, 'SAME', squeeze=nn.silu)


def _stages(size):
  wider, deeper, _ = _SCALES[size]
  inner, stages = divisible(32 * wider), []
  for expansion, kernel, stride, width, depth in _STAGES:
    width, plans = divisible(width * wider), []
    for i in range(math.ceil(depth * deeper)):
      plan = Plan(
        kernel,
        stride if i == 0 else 1,
        expansion * inner,
        width,
        inner // 4,
        nn.silu,
        expands=expansion > 1,
      )
      plans.append(plan)
      inner = width
    stages.append(tuple(plans))
  return tuple(stages)


def _spec(size, input_size, resize, parameters, multiply_adds):
  return imagenet(
    input_size=input_size,
    resize=resize,
    stages=stage_names(_stages(size)),
    feature_dim=divisible(1280 * _SCALES[size][0]),
    interpolation='bicubic',
    parameters=parameters,
    multiply_adds=multiply_adds,
  )


SPECS = {
  'efficientnet_b0': _spec('b0', 224, 256, 5288548, 386),
  'efficientnet_b1': _spec('b1', 240, 256, 7794184, 687),
  'efficientnet_b2': _spec('b2', 288, 288, 9109994, 1088),
  'efficientnet_b3': _spec('b3', 300, 320, 12233232, 1827),
  'efficientnet_b4': _spec('b4', 380, 384, 19341616, 4394),
  'efficientnet_b0_keras': _spec('b0', 224, 224, 5288548, 386),
  'efficientnet_b1_keras': _spec('b1', 240, 240, 7794184, 687),
  'efficientnet_b2_keras': _spec('b2', 260, 260, 9109994, 994),
  'efficientnet_b3_keras': _spec('b3', 300, 300, 12233232, 1827),
  'efficientnet_b4_keras': _spec('b4', 380, 380, 19341616, 4394),
}


def _parse(name):
  """Size and publisher."""
  size, _, publisher = name.removeprefix('efficientnet_').partition('_')
  return size, publisher


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network. The published ones were trained with `drop_path` 0.2."""
  options = Options(**options)
  size, publisher = _parse(name)
  wider, _, rate = _SCALES[size]
  backbone = InvertedNet(
    divisible(32 * wider),
    _stages(size),
    SPECS[name].feature_dim,
    nn.silu,
    _KERAS if publisher else _TORCH,
    options,
  )
  head = DropoutLinear(num_classes, rate)
  return Classifier(backbone, head, SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format. TensorFlow's weights are timm's `tf_*` too."""
  size, publisher = _parse(name)
  stages = _stages(size)
  timm = timm_rules(stages, ('conv_head', 'bn2'))
  timm = Layout(TORCH, (*timm, Module('head/classifier', 'classifier')))
  if publisher:
    return {
      'keras': _keras_layout(stages, 'depthwise_kernel'),
      'keras3': _keras_layout(stages, 'kernel'),
      'timm': timm,
    }
  theirs = torchvision_rules(stages, 'block', nested=True)
  return {
    'torchvision': Layout(TORCH, (*theirs, Module('head/classifier', 'classifier.1'))),
    'timm': timm,
  }


def _keras_layout(stages, depthwise):
  """Their normalisation is left out: with the published weights it is ours.

  Its variance there is the standard deviation, whose root a rescaling behind it, in
  the published network alone, divides by once more.
  """
  names = {
    'expand': ('expand_conv', 'expand_bn'),
    'depthwise': ('dwconv', 'bn'),
    'squeeze': ('se_reduce', 'se_expand'),
    'project': ('project_conv', 'project_bn'),
    'stem': ('stem_conv', 'stem_bn'),
    'top': ('top_conv', 'top_bn'),
  }

  def prefix(stage, number, index):
    return f'block{stage + 1}{chr(ord("a") + number)}_'

  rules = keras_rules(stages, prefix, names, depthwise)
  rules = (*rules, Module('head/classifier', 'predictions'))
  return Layout(KERAS, rules, ignored=r'normalization(_\d+)?/.*')
