"""Swin Transformers compute what torchvision's and timm's compute."""

import numpy as np
import pytest

from tests import oracles
from tljax.models import swin
from tljax.weights import convert

NAME = 'swin_t'


def torchvision_model():
  """Without stochastic depth."""
  module = oracles.torch_hub('torchvision').models.swin_t()
  for layer in module.modules():
    if hasattr(layer, 'p'):
      layer.p = 0.0
  return module


def timm_model():
  timm = oracles.torch_hub('timm')
  return timm.create_model('swin_tiny_patch4_window7_224', num_classes=1000)


@pytest.mark.torch
def test_logits_are_torchvisions():
  # Padding in every stage and for two of the halvings; the third shifts one axis.
  oracles.check_torch_parity(NAME, torchvision_model(), 'torchvision', ((75, 131),))


@pytest.mark.torch
@pytest.mark.slow
def test_logits_are_timms():
  oracles.check_torch_parity(NAME, timm_model(), 'timm')


@pytest.mark.torch
def test_training_is_torchvisions():
  oracles.check_torch_training(NAME, torchvision_model(), 'torchvision', 32)


@pytest.mark.torch
def test_names_fit():
  with oracles.torch().device('meta'):
    models = {'torchvision': torchvision_model(), 'timm': timm_model()}
  for layout, module in models.items():
    oracles.assert_names_fit(NAME, layout, module.state_dict())


@pytest.mark.torch
def test_microsofts_files_are_timms():
  """timm's own conversion of Microsoft's files is the oracle."""
  module = timm_model()
  from timm.models.swin_transformer import checkpoint_filter_fn

  wanted = oracles.state_dict(oracles.randomise(module))
  variables = oracles.variables_of(NAME, wanted, 'timm')
  stored = convert.store(convert.flatten(variables), swin.layouts(NAME)['microsoft'])
  stored['layers.0.blocks.1.attn_mask'] = np.zeros((64, 49, 49), np.float32)
  stored['layers.0.blocks.0.attn.relative_position_index'] = np.zeros((49, 49), int)
  tensors = {k: oracles.torch().from_numpy(v) for k, v in stored.items()}
  theirs = checkpoint_filter_fn(tensors, module)
  assert set(theirs) == set(wanted)
  for key, value in theirs.items():
    np.testing.assert_array_equal(value.numpy(), wanted[key], err_msg=key)
  back = convert.flatten(oracles.variables_of(NAME, stored, 'microsoft'))
  for path, leaf in convert.flatten(variables).items():
    np.testing.assert_array_equal(back[path], leaf, err_msg=path)
