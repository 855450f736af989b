"""BiT's networks compute what timm's compute; Google's files are read as timm does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax.models import bit
from tljax.weights import convert

SMALL = 'resnetv2_50x1_bit'


def timm_model(name):
  """timm's, with Google's epsilon; its own is 1e-4 of the logits' spread away."""
  module = oracles.torch_hub('timm').create_model(name, num_classes=1000)
  for layer in module.modules():
    if hasattr(layer, 'eps') and hasattr(layer, 'kernel_size'):
      layer.eps = 1e-10
  return module


@pytest.mark.torch
def test_logits_are_timms():
  oracles.check_torch_parity(SMALL, timm_model(SMALL), 'timm', ((75, 97), 64))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in bit.SPECS if name != SMALL])
def test_logits_of_large_networks_are_timms(name):
  sizes, deep = ((75, 97),), '50x' not in name
  oracles.check_torch_parity(name, timm_model(name), 'timm', sizes, double=deep)


@pytest.mark.torch
def test_training_is_timms():
  oracles.check_torch_training(SMALL, timm_model(SMALL), 'timm', 64)


@pytest.mark.torch
@pytest.mark.parametrize('name', bit.SPECS)
def test_names_fit(name):
  with oracles.torch().device('meta'):
    theirs = timm_model(name).state_dict()
  oracles.assert_names_fit(name, 'timm', theirs)


@pytest.mark.torch
def test_googles_files_are_timms(tmp_path):
  """timm's own conversion of Google's files is the oracle."""
  module = oracles.randomise(timm_model(SMALL))
  variables = oracles.variables_of(SMALL, oracles.state_dict(module), 'timm')
  stored = convert.store(convert.flatten(variables), bit.layouts(SMALL)['google'])
  kernel = stored['resnet/block1/unit01/a/proj/standardized_conv2d/kernel']
  assert kernel.shape == (1, 1, 64, 256)
  np.savez(tmp_path / 'bit.npz', **stored)
  other = timm_model(SMALL)
  other.load_pretrained(str(tmp_path / 'bit.npz'))
  theirs, wanted = oracles.state_dict(other), oracles.state_dict(module)
  for key, value in wanted.items():
    np.testing.assert_array_equal(theirs[key], value, err_msg=key)
  back = oracles.variables_of(SMALL, stored, 'google')
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, back, variables)))


def test_kernels_are_standardised():
  kernel = np.random.default_rng(0).normal(3, 1e-3, (3, 3, 4, 8)).astype(np.float32)
  kernel[..., 0] = 1  # has no variance
  x = np.eye(36, dtype=np.float32).reshape(36, 3, 3, 4)
  layer = bit.StdConv(8, 3)
  y = layer.apply({'params': {'kernel': kernel}}, jnp.asarray(x))[:, 1, 1]
  wanted = kernel.reshape(36, 8).astype(np.float64)
  wanted = (wanted - wanted.mean(0)) / np.sqrt(wanted.var(0) + 1e-10)
  np.testing.assert_allclose(y, wanted, atol=1e-3)
