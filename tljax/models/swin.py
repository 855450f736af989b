"""Swin Transformer (Liu et al., 2021) as torchvision, timm and Microsoft publish it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tljax.models.attention import attend
from tljax.models.base import Classifier, Linear, Options, imagenet
from tljax.models.convolution import Conv
from tljax.models.layers import DropPath, dense, layer_norm
from tljax.models.layouts import TORCH, Layout, Module, Tensor
from tljax.models.norms import gelu

SPECS = {
  'swin_t': imagenet(
    resize=232,
    stages=('stem', 'stage1', 'stage2', 'stage3', 'stage4', 'norm'),
    feature_dim=768,
    interpolation='bicubic',
    parameters=28288354,
    multiply_adds=4491,
  )
}
_WIDTH, _DEPTHS, _HEADS = 96, (2, 2, 6, 2), (3, 6, 12, 24)
_WINDOW = 7
_norm = functools.partial(layer_norm, epsilon=1e-5)


def _dense(features, options, name, bias=True):
  init = nn.initializers.truncated_normal(0.02)
  return dense(features, options=options, name=name, bias=bias, kernel_init=init)


def _offsets() -> np.ndarray:
  """Row of the bias table for each pair of a window's positions: (49, 49) of 13^2."""
  rows, columns = np.divmod(np.arange(_WINDOW**2), _WINDOW)
  down, right = (i[:, None] - i[None] + _WINDOW - 1 for i in (rows, columns))
  return down * (2 * _WINDOW - 1) + right


def _windows(x: jax.Array) -> jax.Array:
  """Cuts (..., H, W, C), whole windows, to (..., windows, 49, C)."""
  *batch, height, width, channels = x.shape
  x = x.reshape(*batch, height // _WINDOW, _WINDOW, width // _WINDOW, _WINDOW, channels)
  return x.swapaxes(-4, -3).reshape(*batch, -1, _WINDOW**2, channels)


def _joined(x, height, width):
  """The inverse of `_windows`."""
  *batch, _, _, channels = x.shape
  x = x.reshape(*batch, height // _WINDOW, width // _WINDOW, _WINDOW, _WINDOW, channels)
  return x.swapaxes(-4, -3).reshape(*batch, height, width, channels)


def _mask(height: int, width: int, shift: tuple[int, int]) -> np.ndarray:
  """What to add to logits, (windows, 1, 49, 49): -100 for positions that the shift
  brought together from opposite sides of the map.
  """

  def regions(size, shift):
    place = np.arange(size)
    return (shift > 0) * (1 * (place >= size - _WINDOW) + (place >= size - shift))

  rows, columns = regions(height, shift[0]), regions(width, shift[1])
  ids = _windows((3 * rows[:, None] + columns)[..., None])[..., 0]
  return np.float32(-100) * (ids[:, None, :, None] != ids[:, None, None])


class Block(nn.Module):
  """Self-attention within windows of 7x7 and a perceptron, each after a layer norm."""

  heads: int
  shifted: bool
  drop_path: float
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o, width = self.options, x.shape[-1]
    y = self._attend(_norm(o, 'norm1')(x))
    x = x + DropPath(self.drop_path)(y, train)
    y = gelu(_dense(4 * width, o, 'fc1')(_norm(o, 'norm2')(x)))
    y = _dense(width, o, 'fc2')(y)
    return x + DropPath(self.drop_path)(y, train)

  def _attend(self, x):
    """The map is padded to whole windows; the zeros are attended to as well."""
    _, height, width, channels = x.shape
    x = jnp.pad(x, [(0, 0), (0, -height % _WINDOW), (0, -width % _WINDOW), (0, 0)])
    padded = x.shape[1:3]
    # A single window has nothing to be shifted to.
    shift = tuple(_WINDOW // 2 * (self.shifted and n > _WINDOW) for n in padded)
    x = _windows(jnp.roll(x, (-shift[0], -shift[1]), (1, 2)))

    init = nn.initializers.truncated_normal(0.02)
    shape = ((2 * _WINDOW - 1) ** 2, self.heads)
    bias = self.param('positions', init, shape)[_offsets()].transpose(2, 0, 1)[None]
    bias = bias + _mask(*padded, shift) if any(shift) else bias
    x = _dense(3 * channels, self.options, 'qkv')(x)
    x = x.reshape(*x.shape[:3], 3, self.heads, -1)
    x = jax.vmap(functools.partial(attend, bias=bias))(
      *(x[:, :, :, i] for i in range(3))
    )
    x = _dense(channels, self.options, 'proj')(x.reshape(*x.shape[:3], channels))

    x = jnp.roll(_joined(x, *padded), shift, (1, 2))
    return x[:, :height, :width]


class Stem(nn.Module):
  """4x4 patches and layer norm."""

  options: Options

  @nn.compact
  def __call__(self, x):
    o = self.options
    x = Conv(_WIDTH, (4, 4), 4, padding='VALID', dtype=o.dtype, name='conv')(x)
    return _norm(o, 'norm')(x)


class Stage(nn.Module):
  """Blocks of one resolution, which all but the first stage halve beforehand."""

  heads: int
  downsample: bool
  rates: tuple[float, ...]  # of stochastic depth, by block
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    if self.downsample:
      x = self._merge(x)
    for i, rate in enumerate(self.rates):
      x = o.block(Block)(self.heads, i % 2 > 0, rate, o, name=f'block{i}')(x, train)
    return x

  def _merge(self, x):
    """Four neighbours to one position, twice as wide; odd sizes are padded."""
    x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
    x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
    x = _norm(self.options, 'downsample_norm')(x)
    return _dense(x.shape[-1] // 2, self.options, 'downsample', bias=False)(x)


class Swin(nn.Module):
  """A stem, four stages and a layer norm."""

  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o = self.options
    outputs = {'stem': Stem(o, name='stem')(x)}
    x, rates = outputs['stem'], o.drop_path_rates(sum(_DEPTHS))
    for i, (depth, heads) in enumerate(zip(_DEPTHS, _HEADS, strict=True)):
      name, first = f'stage{i + 1}', sum(_DEPTHS[:i])
      stage = Stage(heads, i > 0, tuple(rates[first : first + depth]), o, name=name)
      outputs[name] = x = stage(x, train)
    x = _norm(o, 'norm')(x)
    return {**outputs, 'norm': x, 'map': x, 'features': jnp.mean(x, (1, 2))}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network. The paper trains it with `drop_path=0.2`."""
  options = Options(**options)
  return Classifier(Swin(options), Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format.

  timm and Microsoft compute the same where the map is of whole windows, as at 224
  pixels; other maps they shift before they pad.
  """
  del name
  return {
    'torchvision': _torchvision(),
    'timm': _microsoft('head.fc', downsample_first=True),
    'microsoft': _microsoft('head', downsample_first=False),
  }


# Computed from the window's size, and the mask from the image's.
_BUFFERS = r'.*\.(relative_position_index|attn_mask)'


def _torchvision():
  rules = [
    Module('backbone/stem/conv', 'features.0.0'),
    Module('backbone/stem/norm', 'features.0.2'),
    Module('backbone/norm', 'norm'),
    Module('head/classifier', 'head'),
  ]
  for stage in range(4):
    ours, theirs = f'backbone/stage{stage + 1}/', f'features.{2 * stage}.'
    rules += [
      Module(f'{ours}downsample_norm', f'{theirs}norm'),
      Module(f'{ours}downsample', f'{theirs}reduction'),
      *_block_rules(rf'{ours}block(\d+)/', rf'features.{2 * stage + 1}.\1.', (0, 3)),
    ]
  return Layout(TORCH, tuple(rules), _BUFFERS)


def _microsoft(head, downsample_first):
  """Microsoft ends a stage with the halving, timm begins with it."""
  rules = [
    Module('backbone/stem/conv', 'patch_embed.proj'),
    Module('backbone/stem/norm', 'patch_embed.norm'),
    Module('backbone/norm', 'norm'),
    Module('head/classifier', head),
  ]
  for stage in range(4):
    ours, theirs = f'backbone/stage{stage + 1}/', f'layers.{stage}.'
    downsample = theirs if downsample_first else f'layers.{stage - 1}.'
    block = rf'{theirs}blocks.\1.'
    rules += [
      Module(f'{ours}downsample_norm', f'{downsample}downsample.norm'),
      Module(f'{ours}downsample', f'{downsample}downsample.reduction'),
      *_block_rules(rf'{ours}block(\d+)/', block, ('fc1', 'fc2')),
    ]
  return Layout(TORCH, tuple(rules), _BUFFERS)


def _block_rules(ours, theirs, dense):
  return [
    Module(f'{ours}norm(.)', rf'{theirs}norm\2'),
    Module(f'{ours}(qkv|proj)', rf'{theirs}attn.\2'),
    Tensor(f'{ours}positions', f'{theirs}attn.relative_position_bias_table'),
    Module(f'{ours}fc1', f'{theirs}mlp.{dense[0]}'),
    Module(f'{ours}fc2', f'{theirs}mlp.{dense[1]}'),
  ]
