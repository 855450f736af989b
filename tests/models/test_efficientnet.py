"""EfficientNets compute what torchvision's, timm's and Keras' compute."""

import numpy as np
import pytest

from tests import oracles
from tljax.models import base

SIZES = ((75, 97),)  # odd and, a stage on, even
LARGE = [pytest.param(f'b{i}', marks=pytest.mark.slow) for i in range(1, 5)]


@pytest.mark.torch
@pytest.mark.parametrize('size', ['b0', *LARGE])
def test_logits_are_torchvisions(size):
  name = f'efficientnet_{size}'
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision', SIZES)


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.efficientnet_b0(
    dropout=0.0, stochastic_depth_prob=0.0
  )
  oracles.check_torch_training('efficientnet_b0', module, 'torchvision', 48)


@pytest.mark.torch
@pytest.mark.parametrize('size', ['b0', *LARGE])
def test_logits_are_timms(size):
  name = f'efficientnet_{size}'
  module = oracles.torch_hub('timm').create_model(name)
  oracles.check_torch_parity(name, module, 'timm', SIZES)


@pytest.mark.torch
@pytest.mark.parametrize('size', ['b0', *LARGE])
def test_logits_are_those_of_tensorflows_weights_in_timm(size):
  module = oracles.torch_hub('timm').create_model(f'tf_efficientnet_{size}')
  oracles.check_torch_parity(f'efficientnet_{size}_keras', module, 'timm', SIZES)


@pytest.mark.torch
@pytest.mark.parametrize('size', ['b1', 'b2', 'b3', 'b4'])
@pytest.mark.parametrize('hub', ['torchvision', 'timm'])
def test_names_fit(hub, size):
  name = f'efficientnet_{size}'
  hub_module = oracles.torch_hub(hub)
  with oracles.torch().device('meta'):
    module = (
      hub_module.create_model(name)
      if hub == 'timm'
      else getattr(hub_module.models, name)()
    )
  oracles.assert_names_fit(name, hub, module.state_dict())


@pytest.mark.keras
@pytest.mark.parametrize('size', ['b0', *LARGE])
def test_logits_are_keras(size):
  build = getattr(oracles.keras().applications, f'EfficientNet{size.upper()}')
  model = build(weights=None, classifier_activation=None, input_shape=(97, 74, 3))
  # The published network's normalisation; see `efficientnet._keras_layout`.
  (layer,) = (layer for layer in model.layers if 'normalization' in layer.name)
  layer.adapt_mean.assign(base.IMAGENET_MEAN)
  layer.adapt_variance.assign(np.square(base.IMAGENET_STD))
  layer.finalize_state()
  oracles.check_keras_parity(
    f'efficientnet_{size}_keras',
    model,
    lambda x: x,
    ((97, 74),),
    layout='keras3',
  )
