"""Vision Transformers (Dosovitskiy et al., 2021) as timm and torchvision have them;
DeiT (Touvron et al., 2021), DINOv2 (Oquab et al., 2023; registers: Darcet et al., 2023)
and CLIP's image towers (Radford et al., 2021). The names are in vit_layouts.py.
"""

import dataclasses
import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.errors import InputError
from tljax.models.attention import attend
from tljax.models.base import (
  Classifier,
  Linear,
  Options,
  imagenet,
)
from tljax.models.convolution import Conv
from tljax.models.layers import DropPath, dense, layer_norm
from tljax.models.layouts import Layout
from tljax.models.norms import gelu
from tljax.models.vit_layouts import Config, vit_layouts

# Width, blocks, heads.
_SIZES = {
  'tiny': (192, 12, 3),
  'small': (384, 12, 6),
  'base': (768, 12, 12),
  'large': (1024, 24, 16),
}
_HALF = {'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'resize': 248}
_DEIT = {'resize': 248}
_DINO = {'input_size': 518, 'resize': 518}
_CLIP = {
  'mean': (0.48145466, 0.4578275, 0.40821073),
  'std': (0.26862954, 0.26130258, 0.27577711),
  'resize': 224,
}
_TORCHVISION = {'interpolation': 'bilinear'}
_NAME = re.compile(
  r'(?:vit|deit)_(tiny|small|base|large|b|l)(?:_patch|_)(\d+)(_reg4)?.*'
)


def _spec(name, parameters, multiply_adds, interpolation='bicubic', **changes):
  c = _config(name)
  return imagenet(
    stages=('embed', *(f'block{i + 1}' for i in range(c.depth)), 'norm'),
    feature_dim=c.width,
    interpolation=interpolation,
    parameters=parameters,
    multiply_adds=multiply_adds,
    **changes,
  )


def _config(name):
  size, patch, registers = _NAME.fullmatch(name).groups()
  return Config(
    *_SIZES[{'b': 'base', 'l': 'large'}.get(size, size)],
    patch=int(patch),
    registers=4 if registers else 0,
    dino='dinov2' in name,
    clip='clip' in name,
  )


SPECS = {
  name: _spec(name, *figures, **changes)
  for name, *figures, changes in (
    ('vit_tiny_patch16_224', 5717416, 1254, _HALF),
    ('vit_small_patch16_224', 22050664, 4599, _HALF),
    ('vit_small_patch32_224', 22878952, 1143, _HALF),
    ('vit_base_patch16_224', 86567656, 17564, _HALF),
    ('vit_base_patch32_224', 88224232, 4409, _HALF),
    ('vit_large_patch16_224', 304326632, 61555, _HALF),
    ('vit_large_patch32_224', 306535400, 15378, _HALF),
    ('deit_tiny_patch16_224', 5717416, 1254, _DEIT),
    ('deit_small_patch16_224', 22050664, 4599, _DEIT),
    ('deit_base_patch16_224', 86567656, 17564, _DEIT),
    ('vit_b_16', 86567656, 17564, _TORCHVISION),
    ('vit_b_32', 88224232, 4409, _TORCHVISION),
    ('vit_l_16', 304326632, 61555, {**_TORCHVISION, 'resize': 242}),
    ('vit_l_32', 306535400, 15378, _TORCHVISION),
    ('vit_small_patch14_dinov2', 22441192, 46697, _DINO),
    ('vit_base_patch14_dinov2', 87348712, 151574, _DINO),
    ('vit_large_patch14_dinov2', 305392616, 506805, _DINO),
    ('vit_small_patch14_reg4_dinov2', 22442344, 46883, _DINO),
    ('vit_base_patch14_reg4_dinov2', 87351016, 152117, _DINO),
    ('vit_large_patch14_reg4_dinov2', 305395688, 508552, _DINO),
    ('vit_base_patch32_clip_quickgelu_224', 88225000, 4409, _CLIP),
    ('vit_base_patch16_clip_quickgelu_224', 86568424, 17564, _CLIP),
  )
}


def resize_positions(
  positions: jax.Array, grid: tuple[int, int], prefix: int = 1
) -> jax.Array:
  """Resamples position embeddings for another number of patches.

  Bicubic and antialiased, as timm's `resample_abs_pos_embed`. The antialiasing takes
  more of the neighbours where the grid shrinks.

  Args:
    positions: (1, prefix + n * n, D): leading tokens, then a square grid by rows.
    grid: rows and columns of patches that are wanted.
    prefix: number of leading tokens, such as the class token; kept as they are.

  Returns:
    (1, prefix + rows * columns, D).
  """
  side = math.isqrt(positions.shape[1] - prefix)
  if positions.shape[1] != prefix + side * side:
    raise ValueError(f'{positions.shape[1] - prefix} positions are not a square grid')
  if tuple(grid) == (side, side):
    return positions
  width = positions.shape[-1]
  patches = positions[:, prefix:].reshape(1, side, side, width)
  patches = jax.image.resize(patches, (1, *grid, width), 'cubic')
  patches = patches.reshape(1, -1, width)
  return jnp.concatenate([positions[:, :prefix], patches], 1)


def _quick_gelu(x):
  return x * nn.sigmoid(1.702 * x)


class Embed(nn.Module):
  """Patches, class token, registers and positions to tokens (N, T, D).

  Images of another size than `side` patches a side get resampled positions. With
  registers, which have no position, the first position IS the class token: their two
  published layouts divide the sum in different ways.
  """

  config: Config
  side: int
  options: Options

  @nn.compact
  def __call__(self, x, train):
    del train
    c, dtype, init = self.config, self.options.dtype, nn.initializers.normal(0.02)
    if x.shape[1] % c.patch or x.shape[2] % c.patch:
      raise InputError(
        f'images of {x.shape[1]} x {x.shape[2]} are no whole patches of {c.patch} '
        f'pixels a side; resize them to multiples of {c.patch}'
      )
    x = Conv(
      c.width,
      (c.patch, c.patch),
      c.patch,
      padding='VALID',
      use_bias=not c.clip,
      dtype=dtype,
      name='patch',
    )(x)
    count, *grid, width = x.shape
    positions = self.param('positions', init, (1, 1 + self.side**2, width))
    positions = resize_positions(positions, grid)
    first, positions = positions[:, :1], positions[:, 1:]
    if not c.registers:
      first += self.param('class_token', init, (1, 1, width))
    prefix = [first]
    if c.registers:
      prefix.append(self.param('registers', init, (1, c.registers, width)))
    prefix = jnp.concatenate(prefix, 1).astype(dtype)
    prefix = jnp.broadcast_to(prefix, (count, *prefix.shape[1:]))
    x = x.reshape(count, -1, width) + positions.astype(dtype)
    x = jnp.concatenate([prefix, x], 1)
    return layer_norm(self.options, 'norm', c.epsilon)(x) if c.clip else x


class Block(nn.Module):
  """Self-attention and a two-layer perceptron, each after a layer norm."""

  config: Config
  drop_path: float
  options: Options

  @nn.compact
  def __call__(self, x, train):
    c, o = self.config, self.options
    linear = functools.partial(
      dense, options=o, kernel_init=nn.initializers.xavier_uniform()
    )
    activation = _quick_gelu if c.clip else gelu

    y = layer_norm(o, 'norm1', c.epsilon)(x)
    y = linear(3 * c.width, name='qkv')(y)
    y = y.reshape(*y.shape[:2], 3, c.heads, -1)
    y = attend(*(y[:, :, i] for i in range(3)))
    y = linear(c.width, name='proj')(y.reshape(x.shape))
    x = x + self._branch(y, 'gamma1', train)

    y = layer_norm(o, 'norm2', c.epsilon)(x)
    y = activation(linear(4 * c.width, name='fc1')(y))
    y = linear(c.width, name='fc2')(y)
    return x + self._branch(y, 'gamma2', train)

  def _branch(self, y, gamma, train):
    """Layer scale (Touvron et al., 2021) and stochastic depth."""
    if self.config.dino:
      scale = self.param(gamma, nn.initializers.constant(1e-5), (self.config.width,))
      y = y * scale.astype(y.dtype)[None, None]
    return DropPath(self.drop_path)(y, train)


class VisionTransformer(nn.Module):
  """Returns the tokens (N, T, D) after every stage; 'tokens' are the normed last."""

  config: Config
  side: int
  pool: str
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    c, o = self.config, self.options
    x = Embed(c, self.side, o, name='embed')(x, train)
    outputs = {'embed': x}
    for i, rate in enumerate(o.drop_path_rates(c.depth)):
      name = f'block{i + 1}'
      outputs[name] = x = o.block(Block)(c, rate, o, name=name)(x, train)
    outputs['norm'] = x = layer_norm(o, 'norm', c.epsilon)(x)
    patches = x[:, 1 + c.registers :]
    features = x[:, 0] if self.pool == 'token' else jnp.mean(patches, 1)
    return {**outputs, 'tokens': x, 'features': features}


def create(
  name: str,
  num_classes: int,
  *,
  image_size: int | None = None,
  pool: str = 'token',
  **options,
) -> Classifier:
  """Returns the network.

  Args:
    name: see `SPECS`.
    num_classes: of the head.
    image_size: pixels a side for which the network has positions; by default those
      that it was published with, and so are published weights'. Other images of whole
      patches are taken too, their positions resampled at every call. To train positions
      of another size, resample the weights' once, by `resize_positions`.
    pool: what the features are: 'token', the class token's output, or 'mean', that of
      the patches.
    **options: see `Options`.

  Raises:
    InputError: no whole number of patches fits the image size, or an unknown pool.
  """
  config, spec, options = _config(name), SPECS[name], Options(**options)
  if pool not in ('token', 'mean'):
    raise InputError(f"pool {pool!r} is unknown; choose 'token' or 'mean'")
  size = spec.input_size if image_size is None else image_size
  if size % config.patch or size <= 0:
    raise InputError(f'image_size={size}: {name} wants a multiple of {config.patch}')
  if size != spec.input_size:
    resize = round(spec.resize * size / spec.input_size)
    spec = dataclasses.replace(
      spec, input_size=size, resize=resize, parameters=None, multiply_adds=None
    )
  backbone = VisionTransformer(config, size // config.patch, pool, options)
  return Classifier(backbone, Linear(num_classes), spec, options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format."""
  return vit_layouts(name, _config(name))
