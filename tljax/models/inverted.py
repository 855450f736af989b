"""Inverted residual blocks (Sandler et al., 2018), which MobileNetV2, MobileNetV3 and
EfficientNet are made of, and how their publishers name the tensors.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Options
from tljax.models.layers import DropPath, SqueezeExcite, batch_norm, conv
from tljax.models.layouts import CONV_AS_DENSE, DEPTHWISE, Module, Tensor, Transform
from tljax.models.products import Dense


class Plan(NamedTuple):
  """Of one block.

  Attributes:
    size, stride: of the depthwise convolution.
    expanded: its width.
    width: of the block's output.
    squeezed: inner width of squeeze-and-excitation; 0: the block has none.
    activation: after the first two convolutions.
    expands: whether it has the first of its three convolutions.
  """

  size: int
  stride: int
  expanded: int
  width: int
  squeezed: int = 0
  activation: Callable = nn.relu6
  expands: bool = True


class Variant(NamedTuple):
  """What publishers do differently.

  Attributes:
    epsilon, momentum: of batch norm.
    padding: None for PyTorch's, 'SAME' for TensorFlow's; pairs as of nn.Conv.
    squeeze, gate: activations of squeeze-and-excitation.
  """

  epsilon: float = 1e-5
  momentum: float = 0.9
  padding: str | tuple | None = None
  squeeze: Callable = nn.relu
  gate: Callable = nn.sigmoid


Stages = tuple[tuple[Plan, ...], ...]


class ConvNorm(nn.Module):
  """A convolution, batch norm and an activation. `width` 0 is depthwise."""

  width: int
  size: int
  stride: int
  variant: Variant
  options: Options
  activation: Callable | None = None

  @nn.compact
  def __call__(self, x, train):
    o, v = self.options, self.variant
    width = self.width or x.shape[-1]
    groups = 1 if self.width else width
    options = {'padding': v.padding, 'options': o, 'name': 'conv'}
    x = conv(width, self.size, self.stride, groups=groups, **options)(x)
    norm = batch_norm(o, train, 'norm', epsilon=v.epsilon, momentum=v.momentum)
    x = norm(x)
    return self.activation(x) if self.activation else x


class InvertedResidual(nn.Module):
  """Expands by 1x1, filters each channel, gates the channels, projects by 1x1."""

  plan: Plan
  variant: Variant
  options: Options
  drop_rate: float = 0.0

  @nn.compact
  def __call__(self, x, train):
    p, v, o = self.plan, self.variant, self.options
    y = x
    if p.expands:
      y = ConvNorm(p.expanded, 1, 1, v, o, p.activation, name='expand')(y, train)
    y = ConvNorm(0, p.size, p.stride, v, o, p.activation, name='depthwise')(y, train)
    if p.squeezed:
      y = SqueezeExcite(p.squeezed, o, v.squeeze, v.gate, name='squeeze')(y)
    y = ConvNorm(p.width, 1, 1, v, o, name='project')(y, train)
    if p.stride == 1 and x.shape[-1] == p.width:
      y = x + DropPath(self.drop_rate)(y, train)
    return y


class Stage(nn.Module):
  """Blocks of one width."""

  plans: tuple[Plan, ...]
  drop_rates: tuple[float, ...]
  variant: Variant
  options: Options

  @nn.compact
  def __call__(self, x, train):
    block = self.options.block(InvertedResidual)
    for i, (plan, rate) in enumerate(zip(self.plans, self.drop_rates, strict=True)):
      x = block(plan, self.variant, self.options, rate, name=f'block{i}')(x, train)
    return x


class InvertedNet(nn.Module):
  """A stem, stages of inverted residuals, a 1x1 convolution 'top', the mean over space
  and, with `hidden`, a dense layer of that name.
  """

  stem: int
  stages: Stages
  top: int
  activation: Callable
  variant: Variant
  options: Options
  hidden: int = 0

  @nn.compact
  def __call__(self, x, train=False):
    o, v = self.options, self.variant
    x = ConvNorm(self.stem, 3, 2, v, o, self.activation, name='stem')(x, train)
    outputs = {'stem': x}
    rates = o.drop_path_rates(sum(map(len, self.stages)))
    for i, plans in enumerate(self.stages):
      drop, rates = tuple(rates[: len(plans)]), rates[len(plans) :]
      x = Stage(plans, drop, v, o, name=f'stage{i + 1}')(x, train)
      outputs[f'stage{i + 1}'] = x
    x = ConvNorm(self.top, 1, 1, v, o, self.activation, name='top')(x, train)
    outputs |= {'top': x, 'map': x, 'features': jnp.mean(x, (1, 2))}
    if self.hidden:
      dense = Dense(self.hidden, dtype=o.dtype, name='hidden')
      x = self.activation(dense(outputs['features']))
      outputs |= {'hidden': x, 'features': x}
    return outputs


def divisible(width: float) -> int:
  """The nearest multiple of 8, but no less than nine tenths of `width`."""
  nearest = max(8, int(width + 4) // 8 * 8)
  return nearest if nearest >= 0.9 * width else nearest + 8


def stage_names(stages: Stages, hidden: bool = False) -> tuple[str, ...]:
  """Of the whole network, bottom to top."""
  numbered = [f'stage{i + 1}' for i in range(len(stages))]
  return ('stem', *numbered, 'top', *(['hidden'] if hidden else []))


# Names of the tensors.

# A 1x1 convolution (1, 1, I, O) that we hold as a dense layer (I, O).
POINTWISE_AS_DENSE = Transform(
  lambda arrays, shape: arrays[0][0, 0] if arrays[0].ndim == 4 else arrays[0],
  lambda a: [a[None, None]],
)


def _blocks(stages: Stages) -> Iterator[tuple[str, Plan, int, int, int]]:
  """By block: our path, its plan, numbers of the stage, in the stage, in all."""
  number = 0
  for s, plans in enumerate(stages):
    for b, plan in enumerate(plans):
      yield f'backbone/stage{s + 1}/block{b}', plan, s, b, number
      number += 1


def conv_norm(ours: str, conv: str, norm: str) -> list[Module]:
  """Rules of a `ConvNorm` at the path `ours`."""
  return [Module(f'{ours}/conv', conv), Module(f'{ours}/norm', norm)]


def _squeeze(ours, reduce, expand):
  return [
    Module(f'{ours}/squeeze/reduce', reduce, CONV_AS_DENSE),
    Module(f'{ours}/squeeze/expand', expand, CONV_AS_DENSE),
  ]


def _parts(plan):
  names = ('expand', 'depthwise', 'squeeze', 'project')
  has = (plan.expands, True, plan.squeezed, True)
  return [name for name, present in zip(names, has, strict=True) if present]


def torchvision_rules(
  stages: Stages, block: str, nested: bool, bare: bool = False
) -> tuple[Module, ...]:
  """torchvision numbers everything.

  Args:
    stages: of the network.
    block: the name that a block's layers are under.
    nested: blocks are numbered in their stage, not through.
    bare: a block's projection and its norm are not under a number of their own.
  """
  rules = conv_norm('backbone/stem', 'features.0.0', 'features.0.1')
  last = 0
  for ours, plan, stage, number, index in _blocks(stages):
    last = stage + 1 if nested else index + 1
    theirs = (
      f'features.{last}.{number}.{block}' if nested else f'features.{last}.{block}'
    )
    for k, part in enumerate(_parts(plan)):
      here = f'{theirs}.{k}'
      if part == 'squeeze':
        rules += _squeeze(ours, f'{here}.fc1', f'{here}.fc2')
      elif bare and part == 'project':
        rules += conv_norm(f'{ours}/{part}', here, f'{theirs}.{k + 1}')
      else:
        rules += conv_norm(f'{ours}/{part}', f'{here}.0', f'{here}.1')
  top = f'features.{last + 1}'
  return (*rules, *conv_norm('backbone/top', f'{top}.0', f'{top}.1'))


def timm_rules(stages: Stages, top: tuple[str, str]) -> tuple[Module, ...]:
  """timm names layers by what they do. `top`: of the last convolution and its norm."""
  rules = conv_norm('backbone/stem', 'conv_stem', 'bn1')
  for ours, plan, stage, number, _ in _blocks(stages):
    theirs = f'blocks.{stage}.{number}'
    kinds = ('pw', 'dw', 'pwl') if plan.expands else ('dw', 'pw')
    parts = [part for part in _parts(plan) if part != 'squeeze']
    for k, (kind, part) in enumerate(zip(kinds, parts, strict=True)):
      rules += conv_norm(
        f'{ours}/{part}', f'{theirs}.conv_{kind}', f'{theirs}.bn{k + 1}'
      )
    rules += _squeeze(ours, f'{theirs}.se.conv_reduce', f'{theirs}.se.conv_expand')
  return (*rules, *conv_norm('backbone/top', *top))


def keras_rules(
  stages: Stages,
  prefix: Callable[[int, int, int], str],
  names: dict[str, tuple[str, str]],
  depthwise: str,
) -> tuple[Module | Tensor, ...]:
  """Keras names the layers of a block with a prefix.

  Args:
    stages: of the network.
    prefix: of the numbers of the stage, in the stage, in all.
    names: of the two layers of each part.
    depthwise: name of a depthwise kernel: 'depthwise_kernel' in the published files,
      'kernel' in those that Keras 3 writes.
  """
  rules = conv_norm('backbone/stem', *names['stem'])
  rules += conv_norm('backbone/top', *names['top'])
  for ours, plan, *numbers in _blocks(stages):
    theirs = prefix(*numbers)
    for part in _parts(plan):
      first, second = (theirs + name for name in names[part])
      if part == 'squeeze':
        rules += [
          Module(f'{ours}/squeeze/reduce', first, POINTWISE_AS_DENSE),
          Module(f'{ours}/squeeze/expand', second, POINTWISE_AS_DENSE),
        ]
        continue
      if part == 'depthwise':
        kernel = f'{ours}/depthwise/conv/kernel'
        rules.append(Tensor(kernel, f'{first}/{depthwise}', DEPTHWISE))
      rules += conv_norm(f'{ours}/{part}', first, second)
  return tuple(rules)
