"""ConvNeXt (Liu et al., 2022) as torchvision, timm and Keras publish it."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from tljax.models.base import Classifier, Linear, Options, imagenet
from tljax.models.convolution import Conv
from tljax.models.layers import DropPath, conv, dense, layer_norm
from tljax.models.layouts import KERAS, TORCH, Layout, Module, Tensor, reshape
from tljax.models.norms import gelu


def _spec(resize, parameters, multiply_adds, feature_dim):
  return imagenet(
    resize=resize,
    stages=('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'norm'),
    feature_dim=feature_dim,
    parameters=parameters,
    multiply_adds=multiply_adds,
  )


SPECS = {
  'convnext_tiny': _spec(236, 28589128, 4456, 768),
  'convnext_small': _spec(230, 50223688, 8684, 768),
  'convnext_base': _spec(232, 88591464, 15355, 1024),
}
# Width of the first stage, blocks of each.
_SIZES = {
  'convnext_tiny': (96, (3, 3, 9, 3)),
  'convnext_small': (96, (3, 3, 27, 3)),
  'convnext_base': (128, (3, 3, 27, 3)),
}


def _patches(width, size, options, name):
  """A convolution whose windows do not overlap; rows too few for one are dropped."""
  return Conv(
    width,
    (size, size),
    size,
    padding='VALID',
    dtype=options.dtype,
    kernel_init=nn.initializers.truncated_normal(0.02),
    name=name,
  )


class Block(nn.Module):
  """7x7 depthwise convolution, layer norm, a two-layer perceptron, layer scale."""

  drop_path: float
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o, width = self.options, x.shape[-1]
    linear = functools.partial(
      dense, options=o, kernel_init=nn.initializers.truncated_normal(0.02)
    )
    y = conv(width, 7, groups=width, bias=True, options=o, name='conv')(x)
    y = layer_norm(o, 'norm')(y)
    y = linear(width, name='fc2')(gelu(linear(4 * width, name='fc1')(y)))
    gamma = self.param('gamma', nn.initializers.constant(1e-6), (width,))
    y = y * gamma.astype(y.dtype).reshape(1, 1, 1, -1)
    return x + DropPath(self.drop_path)(y, train)


class Stem(nn.Module):
  """4x4 patches and layer norm."""

  width: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    del train
    x = _patches(self.width, 4, self.options, 'conv')(x)
    return layer_norm(self.options, 'norm')(x)


class Stage(nn.Module):
  """Blocks of one resolution, which all but the first stage halve beforehand."""

  width: int
  downsample: bool
  rates: tuple[float, ...]  # of stochastic depth, by block
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    if self.downsample:
      x = layer_norm(o, 'downsample_norm')(x)
      x = _patches(self.width, 2, o, 'downsample_conv')(x)
    for i, rate in enumerate(self.rates):
      x = o.block(Block)(rate, o, name=f'block{i}')(x, train)
    return x


class ConvNeXt(nn.Module):
  """A stem, four stages, and layer norm of the pooled map."""

  width: int
  depths: tuple[int, ...]
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o = self.options
    outputs = {'stem': Stem(self.width, o, name='stem')(x, train)}
    x, rates = outputs['stem'], o.drop_path_rates(sum(self.depths))
    for i, depth in enumerate(self.depths):
      name, first = f'stage{i + 1}', sum(self.depths[:i])
      stage_rates = tuple(rates[first : first + depth])
      stage = Stage(self.width * 2**i, i > 0, stage_rates, o, name=name)
      outputs[name] = x = stage(x, train)
    norm = layer_norm(o, 'norm')(jnp.mean(x, (1, 2)))
    return {**outputs, 'map': x, 'norm': norm, 'features': norm}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network."""
  options = Options(**options)
  backbone = ConvNeXt(*_SIZES[name], options)
  return Classifier(backbone, Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  timm = [
    Module('backbone/stem/conv', 'stem.0'),
    Module('backbone/stem/norm', 'stem.1'),
    Module('backbone/norm', 'head.norm'),
    Module('head/classifier', 'head.fc'),
  ]
  torchvision = [
    Module('backbone/stem/conv', 'features.0.0'),
    Module('backbone/stem/norm', 'features.0.1'),
    Module('backbone/norm', 'classifier.0'),
    Module('head/classifier', 'classifier.2'),
  ]
  for stage in range(4):
    ours = f'backbone/stage{stage + 1}/'
    block, theirs = rf'{ours}block(\d+)/', rf'stages.{stage}.blocks.\1.'
    timm += [
      Module(f'{ours}downsample_norm', f'stages.{stage}.downsample.0'),
      Module(f'{ours}downsample_conv', f'stages.{stage}.downsample.1'),
      Module(f'{block}conv', f'{theirs}conv_dw'),
      Module(f'{block}norm', f'{theirs}norm'),
      Module(f'{block}(fc.)', rf'{theirs}mlp.\2'),
      Tensor(f'{block}gamma', f'{theirs}gamma'),
    ]
    theirs = rf'features.{2 * stage + 1}.\1.'
    torchvision += [
      Module(f'{ours}downsample_norm', f'features.{2 * stage}.0'),
      Module(f'{ours}downsample_conv', f'features.{2 * stage}.1'),
      Module(f'{block}conv', f'{theirs}block.0'),
      Module(f'{block}norm', f'{theirs}block.2'),
      Module(f'{block}fc1', f'{theirs}block.3'),
      Module(f'{block}fc2', f'{theirs}block.5'),
      Tensor(f'{block}gamma', f'{theirs}layer_scale', reshape(-1, 1, 1)),
    ]
  return {
    'torchvision': Layout(TORCH, tuple(torchvision)),
    'timm': Layout(TORCH, tuple(timm)),
    'keras': _keras_layout(name, nested=False),
    'keras_nested': _keras_layout(name, nested=True),
  }


def _keras_layout(name, nested):
  """Keras has the stem and the halvings as models within the model, whose names are
  part of the layers' names in some files.
  """

  def inner(model, layer):
    return f'{name}_{model}/{name}_{layer}' if nested else f'{name}_{layer}'

  rules = [
    Module('backbone/stem/conv', inner('stem', 'stem_conv')),
    Module('backbone/stem/norm', inner('stem', 'stem_layernorm')),
    Module('backbone/norm', f'{name}_head_layernorm'),
    Module('head/classifier', f'{name}_head_dense'),
  ]
  for stage in range(4):
    ours, model = f'backbone/stage{stage + 1}/', f'downsampling_block_{stage - 1}'
    for layer, theirs in (('norm', 'layernorm'), ('conv', 'conv')):
      theirs = inner(model, f'downsampling_{theirs}_{stage - 1}')
      rules.append(Module(f'{ours}downsample_{layer}', theirs))
    block, theirs = rf'{ours}block(\d+)/', rf'{name}_stage_{stage}_block_\1_'
    rules += [
      Module(f'{block}conv', f'{theirs}depthwise_conv'),
      Module(f'{block}norm', f'{theirs}layernorm'),
      Module(f'{block}fc(.)', rf'{theirs}pointwise_conv_\2'),
      Tensor(f'{block}gamma', f'{theirs}layer_scale/gamma'),
    ]
  return Layout(KERAS, tuple(rules), export=False)
