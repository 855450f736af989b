"""ResNets compute what torchvision's and Keras' compute."""

import pytest

from tests import oracles
from tljax import models


@pytest.mark.torch
@pytest.mark.parametrize(
  'name',
  [
    'resnet18',
    'resnet50',
    'resnext50_32x4d',
    pytest.param('resnet34', marks=pytest.mark.slow),
    pytest.param('resnet101', marks=pytest.mark.slow),
    pytest.param('resnet152', marks=pytest.mark.slow),
    pytest.param('wide_resnet50_2', marks=pytest.mark.slow),
  ],
)
def test_logits_are_torchvisions(name):
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  sizes = (64, (75, 97)) if models.spec(name).parameters < 3e7 else (64,)
  oracles.check_torch_parity(name, module, 'torchvision', sizes)


@pytest.mark.torch
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.resnet18()
  oracles.check_torch_training('resnet18', module, 'torchvision', 96)


@pytest.mark.parametrize(
  'depth',
  ['50', *(pytest.param(d, marks=pytest.mark.slow) for d in ('101', '152'))],
)
def test_logits_are_keras(depth):
  resnet = oracles.keras().applications
  build = getattr(resnet, f'ResNet{depth}')
  model = build(weights=None, classifier_activation=None, input_shape=(97, 75, 3))
  oracles.check_keras_parity(
    f'resnet{depth}_keras', model, resnet.resnet.preprocess_input, ((97, 75),)
  )
