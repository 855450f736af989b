"""DenseNets compute what torchvision's, timm's and Keras' compute."""

import functools
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
def test_timms_names_are_torchvisions():
  build = oracles.torch_hub('torchvision').models.densenet121
  with oracles.torch().device('meta'):
    theirs = build().state_dict()
    timms = oracles.torch_hub('timm').create_model('densenet121').state_dict()
  shapes = ({k: v.shape for k, v in state.items()} for state in (theirs, timms))
  assert next(shapes) == next(shapes)


def check_same(name, old, old_layout, new, new_layout):
  """Asserts that tensors by names of old are the same variables."""
  wanted = oracles.variables_of(name, new, new_layout)
  loaded = oracles.variables_of(name, old, old_layout)
  jax.tree.map(np.testing.assert_array_equal, loaded, wanted)


@pytest.mark.torch
@pytest.mark.parametrize('name', NAMES)
def test_names_of_old_fit(name):
  torchvision = oracles.torch_hub('torchvision').models
  state = oracles.state_dict(getattr(torchvision, name)())
  old = {
    re.sub(r'(denselayer\d+\.\w+?)([12])', r'\1.\2', k): v for k, v in state.items()
  }
  assert 'features.denseblock1.denselayer1.norm.1.running_mean' in old
  check_same(name, old, 'torchvision_2017', state, 'torchvision')


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.densenet121()
  oracles.check_torch_training('densenet121', module, 'torchvision', 64)


@pytest.mark.keras
@pytest.mark.parametrize(
  'size', [121, *(pytest.param(n, marks=pytest.mark.slow) for n in (169, 201))]
)
def test_logits_are_keras(size):
  densenet = oracles.keras().applications.densenet
  build = getattr(densenet, f'DenseNet{size}')
  model = build(weights=None, classifier_activation=None, input_shape=(97, 75, 3))
  name = f'densenet{size}_keras'
  oracles.check_keras_parity(name, model, densenet.preprocess_input, ((97, 75),))
  new = oracles.keras_tensors(model)
  names = (('conv1_', 'conv1/'), ('predictions', 'fc1000'))
  old = {
    functools.reduce(lambda k, n: k.replace(*n), names, k): v for k, v in new.items()
  }
  assert {'conv1/bn/gamma', 'fc1000/kernel'} <= set(old)
  check_same(name, old, 'keras_2018', new, 'keras')
