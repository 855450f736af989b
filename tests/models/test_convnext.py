"""ConvNeXts compute what torchvision's and timm's compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax import models
from tljax.models import convnext
from tljax.weights import convert


@pytest.mark.parametrize('name', convnext.SPECS)
def test_parameters_are_as_many_as_published(name):
  leaves = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(leaves))
  assert count == convnext.SPECS[name].parameters


@pytest.mark.torch
@pytest.mark.parametrize('name', ['convnext_tiny'])
def test_logits_are_torchvisions(name):
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision', ((75, 97),))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize('name', convnext.SPECS)
def test_logits_are_timms(name):
  module = oracles.torch_hub('timm').create_model(name, num_classes=1000)
  oracles.check_torch_parity(name, module, 'timm', (64, (97, 75)))


@pytest.mark.torch
def test_timms_names_fit():
  name = 'convnext_tiny'
  with oracles.torch().device('meta'):
    timm = oracles.torch_hub('timm').create_model(name, num_classes=1000).state_dict()
  variables = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  )
  leaves = {
    path: np.zeros(leaf.shape, np.float32)
    for path, leaf in convert.flatten(variables).items()
  }
  stored = convert.store(leaves, convnext.layouts(name)['timm'])
  assert {k: v.shape for k, v in stored.items()} == {
    k: tuple(v.shape) for k, v in timm.items()
  }


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.convnext_tiny(
    stochastic_depth_prob=0.0
  )
  oracles.check_torch_training('convnext_tiny', module, 'torchvision', 64)
