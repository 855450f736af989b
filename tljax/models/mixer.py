"""MLP-Mixer (Tolstikhin et al., 2021) as Google and timm publish it."""

import flax.linen as nn
import jax.numpy as jnp

from tljax.errors import InputError
from tljax.models.base import Classifier, Linear, Options, imagenet
from tljax.models.convolution import Conv
from tljax.models.layers import DropPath, dense, layer_norm
from tljax.models.layouts import FLAX, TORCH, Layout, Module
from tljax.models.norms import gelu

_PATCH, _WIDTH, _DEPTH = 16, 768, 12
_TOKENS, _CHANNELS = 384, 3072  # inner widths of the two perceptrons
SPECS = {
  'mixer_b16_224': imagenet(
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    stages=('stem', *(f'block{i + 1}' for i in range(_DEPTH)), 'norm'),
    feature_dim=_WIDTH,
    interpolation='bicubic',
    parameters=59880472,
    multiply_adds=12610,
  )
}


class Perceptron(nn.Module):
  """Two dense layers with GELU between, on the last axis, which keeps its size."""

  width: int
  options: Options

  @nn.compact
  def __call__(self, x):
    y = gelu(dense(self.width, options=self.options, name='fc1')(x))
    return dense(x.shape[-1], options=self.options, name='fc2')(y)


class Block(nn.Module):
  """Mixes the patches, channel by channel, and then the channels, patch by patch."""

  drop_path: float
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    y = layer_norm(o, 'norm1')(x).swapaxes(1, 2)
    y = Perceptron(_TOKENS, o, name='tokens')(y).swapaxes(1, 2)
    x = x + DropPath(self.drop_path)(y, train)
    y = layer_norm(o, 'norm2')(x)
    y = Perceptron(_CHANNELS, o, name='channels')(y)
    return x + DropPath(self.drop_path)(y, train)


class Mixer(nn.Module):
  """Returns the patches (N, T, D) after every stage."""

  size: int  # of the images: the weights are for one number of patches
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o = self.options
    if x.shape[1:3] != (self.size, self.size):
      raise InputError(
        f'mixer_b16_{self.size} takes images of {self.size} x {self.size} alone, '
        f'not {x.shape[1]} x {x.shape[2]}; resize them'
      )
    stem = Conv(
      _WIDTH, (_PATCH, _PATCH), _PATCH, padding='VALID', dtype=o.dtype, name='stem'
    )
    x = stem(x).reshape(x.shape[0], -1, _WIDTH)
    outputs = {'stem': x}
    for i, rate in enumerate(o.drop_path_rates(_DEPTH)):
      name = f'block{i + 1}'
      outputs[name] = x = o.block(Block)(rate, o, name=name)(x, train)
    x = layer_norm(o, 'norm')(x)
    return {**outputs, 'norm': x, 'features': jnp.mean(x, 1)}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network, for images of the published size alone.

  Raises:
    InputError: when it is called with images of another size.
  """
  spec, options = SPECS[name], Options(**options)
  backbone = Mixer(spec.input_size, options)
  return Classifier(backbone, Linear(num_classes), spec, options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  del name
  timm = [
    Module('backbone/stem', 'stem.proj'),
    Module('backbone/norm', 'norm'),
    Module('head/classifier', 'head'),
  ]
  google = [
    Module('backbone/stem', 'stem'),
    Module('backbone/norm', 'pre_head_layer_norm'),
    Module('head/classifier', 'head'),
  ]
  for i in range(_DEPTH):
    ours, theirs = f'backbone/block{i + 1}/', f'blocks.{i}.'
    timm += [
      Module(f'{ours}(norm.)', rf'{theirs}\1'),
      Module(f'{ours}(tokens|channels)/(fc.)', rf'{theirs}mlp_\1.\2'),
    ]
    theirs = f'MixerBlock_{i}/'
    for j in (1, 2):
      google += [
        Module(f'{ours}norm{j}', f'{theirs}LayerNorm_{j - 1}'),
        Module(f'{ours}tokens/fc{j}', f'{theirs}token_mixing/Dense_{j - 1}'),
        Module(f'{ours}channels/fc{j}', f'{theirs}channel_mixing/Dense_{j - 1}'),
      ]
  return {'timm': Layout(TORCH, tuple(timm)), 'google': Layout(FLAX, tuple(google))}
