"""SqueezeNet (Iandola et al., 2016), as torchvision publishes it."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import IMAGENET_MEAN, IMAGENET_STD, Classifier, Spec
from tljax.models.layouts import TORCH, Layout, Module

SPECS = {
  'squeezenet1_1': Spec(
    input_size=224,
    resize=256,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    stages=('stage1', 'stage2', 'stage3', 'stage4'),
    feature_dim=512,
  )
}

# Squeeze and expand widths of each stage's fire modules; a max-pool stands between.
_FIRES = {
  'stage2': ((16, 64), (16, 64)),
  'stage3': ((32, 128), (32, 128)),
  'stage4': ((48, 192), (48, 192), (64, 256), (64, 256)),
}


class Fire(nn.Module):
  """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

  squeeze: int
  expand: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(self.squeeze, (1, 1), name='squeeze')(x))
    parts = [
      nn.Conv(self.expand, (1, 1), name='expand1x1')(x),
      nn.Conv(self.expand, (3, 3), padding=1, name='expand3x3')(x),
    ]
    return nn.relu(jnp.concatenate(parts, -1))


class Stem(nn.Module):
  """The strided first convolution."""

  @nn.compact
  def __call__(self, x):
    return nn.relu(nn.Conv(64, (3, 3), strides=2, padding='VALID', name='conv')(x))


class Stage(nn.Module):
  """Max-pool, then fire modules."""

  widths: tuple[tuple[int, int], ...]

  @nn.compact
  def __call__(self, x):
    x = _max_pool(x)
    for i, (squeeze, expand) in enumerate(self.widths):
      x = Fire(squeeze, expand, name=f'fire{i + 1}')(x)
    return x


def _max_pool(x):
  """3x3, stride 2. Windows that overhang count, as with torch's ceil_mode.

  As the largest of shifted slices its gradient costs a CPU far less than
  nn.max_pool's; a whole training step takes three quarters of the time.
  """
  x = jnp.pad(
    x,
    [(0, 0), *((0, 1 - size % 2) for size in x.shape[1:3]), (0, 0)],
    constant_values=-jnp.inf,
  )
  rows, columns = ((size - 1) // 2 * 2 for size in x.shape[1:3])
  x = functools.reduce(jnp.maximum, [x[:, i : i + rows : 2] for i in range(3)])
  return functools.reduce(jnp.maximum, [x[:, :, i : i + columns : 2] for i in range(3)])


class SqueezeNet11(nn.Module):
  """SqueezeNet 1.1 without its classifier."""

  @nn.compact
  def __call__(self, x, train=False):
    del train
    outputs = {'stage1': Stem(name='stage1')(x)}
    x = outputs['stage1']
    for name, widths in _FIRES.items():
      outputs[name] = x = Stage(widths, name=name)(x)
    return {**outputs, 'map': x, 'features': jnp.mean(x, (1, 2))}


class ConvHead(nn.Module):
  """The published classifier: dropout, 1x1 convolution, ReLU, mean over space."""

  num_classes: int

  @nn.compact
  def __call__(self, outputs, train=False):
    x = nn.Dropout(0.5)(outputs['map'], deterministic=not train)
    x = nn.relu(nn.Conv(self.num_classes, (1, 1), name='classifier')(x))
    return jnp.mean(x, (1, 2))


def create(name: str, num_classes: int) -> Classifier:
  """Returns the network with its published kind of head."""
  return Classifier(SqueezeNet11(), ConvHead(num_classes), SPECS[name])


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  del name
  rules = [
    Module('backbone/stage1/conv', 'features.0'),
    Module('head/classifier', 'classifier.1'),
  ]
  numbers = iter((3, 4, 6, 7, 9, 10, 11, 12))  # of the fire modules in `features`
  for stage, widths in _FIRES.items():
    rules += [
      Module(f'backbone/{stage}/fire{i + 1}/(.*)', rf'features.{next(numbers)}.\1')
      for i in range(len(widths))
    ]
  return {'torchvision': Layout(TORCH, tuple(rules))}
