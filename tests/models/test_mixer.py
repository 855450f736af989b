"""Mixers compute what timm's compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax import models
from tljax.errors import InputError

NAME = 'mixer_b16_224'


def timm_model():
  return oracles.torch_hub('timm').create_model(NAME, num_classes=1000)


@pytest.mark.torch
def test_logits_are_timms():
  oracles.check_torch_parity(NAME, timm_model(), 'timm')


@pytest.mark.torch
def test_names_fit():
  with oracles.torch().device('meta'):
    theirs = timm_model().state_dict()
  oracles.assert_names_fit(NAME, 'timm', theirs)


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_timms():
  oracles.check_torch_training(NAME, timm_model(), 'timm', 224)


def test_other_sizes_are_refused():
  with pytest.raises(InputError, match='224 x 224 alone, not 32 x 224'):
    models.create(NAME).init(jax.random.key(0), jnp.zeros((1, 32, 224, 3)))


@pytest.mark.torch
def test_googles_names_are_flaxs():
  """Google's network numbers what it does not name, and flax has our axes."""
  module = timm_model()
  theirs = {}
  for key, value in oracles.state_dict(module).items():
    layer, leaf = key.rsplit('.', 1)
    if leaf == 'weight':
      leaf = 'scale' if value.ndim == 1 else 'kernel'
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
    block = layer.split('.') if layer.startswith('blocks') else None
    if block:
      part = {'norm1': 'LayerNorm_0', 'norm2': 'LayerNorm_1'}.get(block[2])
      if part is None:
        part = f'{block[2][4:-1]}_mixing/Dense_{int(block[3][2]) - 1}'
      layer = f'MixerBlock_{block[1]}/{part}'
    layer = {'stem.proj': 'stem', 'norm': 'pre_head_layer_norm'}.get(layer, layer)
    theirs[f'{layer}/{leaf}'] = value.transpose(axes)
  assert 'MixerBlock_11/token_mixing/Dense_1/kernel' in theirs
  ours = oracles.variables_of(NAME, theirs, 'google')
  wanted = oracles.variables_of(NAME, oracles.state_dict(module), 'timm')
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, wanted)))
