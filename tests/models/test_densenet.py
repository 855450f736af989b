"""DenseNets compute what torchvision's, timm's and Keras' compute."""

import re

import jax
import numpy as np
import pytest

from tests import oracles

NAMES = [
  'densenet121',
  *(pytest.param(f'densenet{n}', marks=pytest.mark.slow) for n in (161, 169, 201)),
]


@pytest.mark.torch
@pytest.mark.parametrize('name', NAMES)
def test_logits_are_torchvisions(name):
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision', ((75, 97),))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_logits_are_timms(name):
  module = oracles.torch_hub('timm').create_model(name)
  oracles.check_torch_parity(name, module, 'timm', ((97, 75),))


@pytest.mark.torch
@pytest.mark.parametrize('name', NAMES)
def test_names_of_old_fit(name):
  torchvision = oracles.torch_hub('torchvision').models
  state = oracles.state_dict(getattr(torchvision, name)())
  new = oracles.variables_of(name, state, 'torchvision')
  old = {
    re.sub(r'(denselayer\d+\.\w+?)([12])', r'\1.\2', k): v for k, v in state.items()
  }
  assert 'features.denseblock1.denselayer1.norm.1.running_mean' in old
  same = oracles.variables_of(name, old, 'torchvision_2017')
  jax.tree.map(np.testing.assert_array_equal, same, new)


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.densenet121()
  oracles.check_torch_training('densenet121', module, 'torchvision', 64)


@pytest.mark.parametrize(
  'size', [121, *(pytest.param(n, marks=pytest.mark.slow) for n in (169, 201))]
)
def test_logits_are_keras(size):
  densenet = oracles.keras().applications.densenet
  build = getattr(densenet, f'DenseNet{size}')
  model = build(weights=None, classifier_activation=None, input_shape=(97, 75, 3))
  oracles.check_keras_parity(
    f'densenet{size}_keras', model, densenet.preprocess_input, ((97, 75),)
  )
