"""MobileNetV2 computes what torchvision's, timm's and Keras' compute."""

import pytest

from tests import oracles


@pytest.mark.torch
def test_logits_are_torchvisions():
  module = oracles.torch_hub('torchvision').models.mobilenet_v2()
  sizes = (64, (75, 97))
  oracles.check_torch_parity('mobilenet_v2', module, 'torchvision', sizes)


@pytest.mark.torch
def test_logits_are_timms():
  module = oracles.torch_hub('timm').create_model('mobilenetv2_100')
  oracles.check_torch_parity('mobilenet_v2', module, 'timm', (64,))


@pytest.mark.torch
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.mobilenet_v2(dropout=0.0)
  oracles.check_torch_training('mobilenet_v2', module, 'torchvision', 64)


def test_logits_are_keras():
  v2 = oracles.keras().applications.mobilenet_v2
  model = v2.MobileNetV2(
    weights=None, classifier_activation=None, input_shape=(97, 74, 3)
  )
  oracles.check_keras_parity(
    'mobilenet_v2_keras', model, v2.preprocess_input, ((97, 74),), layout='keras3'
  )
