"""How timm, torchvision, Meta, OpenAI and Google name a vision transformer's tensors.

All but Google hold query, key and value in one matrix (3D, D), as we do transposed.
"""

import dataclasses

import numpy as np

from tljax.models.layouts import (
  DENSE,
  FLAX,
  TORCH,
  Layout,
  Module,
  Tensor,
  Transform,
  reshape,
)


@dataclasses.dataclass(frozen=True)
class Config:
  """An architecture.

  Attributes:
    width, depth, heads: D, number of blocks, attention heads.
    patch: pixels a side of a patch.
    registers: further tokens beside the class token.
    dino: DINOv2's layer scale.
    clip: CLIP's layer norm before the blocks, patches without bias, and quick GELU.
  """

  width: int
  depth: int
  heads: int
  patch: int
  registers: int = 0
  dino: bool = False
  clip: bool = False

  @property
  def epsilon(self) -> float:
    """Of the layer norms."""
    return 1e-5 if self.clip else 1e-6


def vit_layouts(name: str, config: Config) -> dict[str, Layout]:
  """Layouts by format of the vision transformer `name`."""
  if name[4:6] in ('b_', 'l_'):
    return {
      'torchvision': _torchvision(config, ('0', '3')),
      # The published files predate torchvision 0.13 and have its older names.
      'torchvision_old': _torchvision(config, ('linear_1', 'linear_2')),
    }
  timm = _timm(config)
  if config.dino:
    return {'timm': timm, 'facebook': _timm(config, facebook=True)}
  if config.clip:
    return {'timm': timm, 'openai': _openai(config)}
  return {'timm': timm, 'google': _google(config)}


def _join(arrays, shape):
  del shape
  return np.concatenate(arrays, 1)


def _split(positions):
  return [positions[:, :1], positions[:, 1:]]


def _add(arrays, shape):
  del shape
  token, positions = arrays
  return np.concatenate([token + positions[:, :1], positions[:, 1:]], 1)


def _subtract(positions):
  token, rest = _split(positions)
  return [token, np.concatenate([np.zeros_like(token), rest], 1)]


def _timm(config, facebook=False):
  """timm's names; Meta's for DINOv2 are these but for the registers."""
  embed = 'backbone/embed/'
  rules = [
    Module(f'{embed}patch', 'patch_embed.proj'),
    Module(f'{embed}norm', 'norm_pre'),
    Tensor(f'{embed}class_token', 'cls_token'),
    Tensor(f'{embed}registers', 'register_tokens' if facebook else 'reg_token'),
    Module('backbone/norm', 'norm'),
    Module('head/classifier', 'head'),
  ]
  if config.registers:
    # timm has the class token's position in the token, Meta both, we only the sum.
    transform = Transform(_add, _subtract) if facebook else Transform(_join, _split)
    names = ('cls_token', 'pos_embed')
    rules.append(Tensor(f'{embed}positions', names, transform))
  else:
    rules.append(Tensor(f'{embed}positions', 'pos_embed'))
  for i in range(config.depth):
    ours, theirs = f'backbone/block{i + 1}/', f'blocks.{i}.'
    rules += [
      Module(f'{ours}(norm.)', rf'{theirs}\1'),
      Module(f'{ours}(qkv|proj)', rf'{theirs}attn.\1'),
      Module(f'{ours}(fc.)', rf'{theirs}mlp.\1'),
      Tensor(f'{ours}gamma(.)', rf'{theirs}ls\1.gamma'),
    ]
  # Meta's `mask_token` served the training.
  return Layout(TORCH, tuple(rules), 'mask_token' if config.dino else '')


def _torch_attention(ours, theirs):
  """Rules of torch.nn.MultiheadAttention."""
  return [
    Tensor(f'{ours}qkv/kernel', f'{theirs}.in_proj_weight', DENSE),
    Tensor(f'{ours}qkv/bias', f'{theirs}.in_proj_bias'),
    Module(f'{ours}proj', f'{theirs}.out_proj'),
  ]


def _torchvision(config, dense):
  rules = [
    Module('backbone/embed/patch', 'conv_proj'),
    Tensor('backbone/embed/class_token', 'class_token'),
    Tensor('backbone/embed/positions', 'encoder.pos_embedding'),
    Module('backbone/norm', 'encoder.ln'),
    Module('head/classifier', 'heads.head'),
  ]
  for i in range(config.depth):
    ours, theirs = f'backbone/block{i + 1}/', f'encoder.layers.encoder_layer_{i}.'
    rules += [
      *_torch_attention(ours, f'{theirs}self_attention'),
      Module(f'{ours}norm(.)', rf'{theirs}ln_\1'),
      Module(f'{ours}fc1', f'{theirs}mlp.{dense[0]}'),
      Module(f'{ours}fc2', f'{theirs}mlp.{dense[1]}'),
    ]
  return Layout(TORCH, tuple(rules))


def _openai(config):
  """The image tower of a CLIP file; its projection and the text tower are left out.

  It has no classifier: the name is ours.
  """
  rules = [
    Module('backbone/embed/patch', 'visual.conv1'),
    Module('backbone/embed/norm', 'visual.ln_pre'),
    Tensor('backbone/embed/class_token', 'visual.class_embedding', reshape(-1)),
    Tensor(
      'backbone/embed/positions',
      'visual.positional_embedding',
      reshape(-1, config.width),
    ),
    Module('backbone/norm', 'visual.ln_post'),
    Module('head/classifier', 'visual.classifier'),
  ]
  for i in range(config.depth):
    ours, theirs = f'backbone/block{i + 1}/', f'visual.transformer.resblocks.{i}.'
    rules += [
      *_torch_attention(ours, f'{theirs}attn'),
      Module(f'{ours}norm(.)', rf'{theirs}ln_\1'),
      Module(f'{ours}fc1', f'{theirs}mlp.c_fc'),
      Module(f'{ours}fc2', f'{theirs}mlp.c_proj'),
    ]
  ignored = (
    r'visual\.proj|transformer\..*|token_embedding\..*|ln_final\..*'
    '|positional_embedding|text_projection|logit_scale'
    '|input_resolution|context_length|vocab_size'
  )
  return Layout(TORCH, tuple(rules), ignored)


def _google(config):
  """The .npz of vision_transformer: heads have an axis of their own."""
  heads, size = config.heads, config.width // config.heads
  transformer = 'Transformer/'
  rules = [
    Module('backbone/embed/patch', 'embedding'),
    Tensor('backbone/embed/class_token', 'cls'),
    Tensor('backbone/embed/positions', f'{transformer}posembed_input/pos_embedding'),
    Module('backbone/norm', f'{transformer}encoder_norm'),
    Module('head/classifier', 'head'),
  ]

  def load(arrays, shape):
    first = shape[:-1]
    return np.concatenate([a.reshape(*first, -1) for a in arrays], -1)

  def store(a):
    return [part.reshape(*a.shape[:-1], heads, size) for part in np.split(a, 3, -1)]

  for i in range(config.depth):
    ours, theirs = f'backbone/block{i + 1}/', f'{transformer}encoderblock_{i}/'
    attention = f'{theirs}MultiHeadDotProductAttention_1/'
    names = (rf'{attention}{part}/\1' for part in ('query', 'key', 'value'))
    rules += [
      Tensor(f'{ours}qkv/(.*)', tuple(names), Transform(load, store)),
      Tensor(
        f'{ours}proj/kernel',
        f'{attention}out/kernel',
        reshape(heads, size, config.width),
      ),
      Tensor(f'{ours}proj/bias', f'{attention}out/bias'),
      Module(f'{ours}norm1', f'{theirs}LayerNorm_0'),
      Module(f'{ours}norm2', f'{theirs}LayerNorm_2'),
      Module(f'{ours}fc1', f'{theirs}MlpBlock_3/Dense_0'),
      Module(f'{ours}fc2', f'{theirs}MlpBlock_3/Dense_1'),
    ]
  return Layout(FLAX, tuple(rules))
