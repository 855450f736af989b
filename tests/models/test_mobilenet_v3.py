"""MobileNetV3 computes what torchvision's, timm's and Keras' compute."""

import re

import pytest

from tests import oracles

SIZES = ((75, 97),)  # odd and, a stage on, even
LARGE = pytest.param('large', marks=pytest.mark.slow)


def timm(name):
  return oracles.torch_hub('timm').create_model(name)


@pytest.mark.torch
@pytest.mark.parametrize('size', ['small', LARGE])
def test_logits_are_torchvisions(size):
  name = f'mobilenet_v3_{size}'
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision', SIZES)


@pytest.mark.torch
def test_training_is_torchvisions():
  build = oracles.torch_hub('torchvision').models.mobilenet_v3_small
  oracles.check_torch_training(
    'mobilenet_v3_small', build(dropout=0.0), 'torchvision', 48
  )


@pytest.mark.torch
@pytest.mark.parametrize('size', ['small', LARGE])
def test_logits_are_timms(size):
  module = timm(f'mobilenetv3_{size}_100')
  oracles.check_torch_parity(f'mobilenet_v3_{size}_timm', module, 'timm', SIZES)


@pytest.mark.torch
@pytest.mark.parametrize('size', ['small', LARGE])
def test_logits_are_those_of_tensorflows_weights_in_timm(size):
  module = timm(f'tf_mobilenetv3_{size}_100')
  oracles.check_torch_parity(f'mobilenet_v3_{size}_keras', module, 'timm', SIZES)


@pytest.mark.torch
@pytest.mark.parametrize('prefix', ['', 'tf_'])
def test_timms_names_fit(prefix):
  with oracles.torch().device('meta'):
    tensors = timm(f'{prefix}mobilenetv3_large_100').state_dict()
  name = f'mobilenet_v3_large_{"keras" if prefix else "timm"}'
  oracles.assert_names_fit(name, 'timm', tensors)


@pytest.mark.torch
def test_torchvisions_names_fit():
  name = 'mobilenet_v3_large'
  with oracles.torch().device('meta'):
    tensors = getattr(oracles.torch_hub('torchvision').models, name)().state_dict()
  oracles.assert_names_fit(name, 'torchvision', tensors)


@pytest.mark.keras
@pytest.mark.parametrize('size', ['small', LARGE])
def test_logits_are_keras(size):
  v3 = oracles.keras().applications
  build = getattr(v3, f'MobileNetV3{size.capitalize()}')
  model = build(weights=None, classifier_activation=None, input_shape=(97, 74, 3))
  oracles.check_keras_parity(
    f'mobilenet_v3_{size}_keras', model, lambda x: x, ((97, 74),), layout='keras3'
  )


# From Keras 3's names to TensorFlow 2's, which the published files have.
RENAMED = (
  (r'_bn/', '/BatchNorm/'),
  (r'(expanded_conv(_\d+)?)_(?=[a-z])', r'\1/'),
  (r'squeeze_excite_conv', 'squeeze_excite/Conv'),
  (r'^conv', 'Conv'),
  (r'^logits', 'Logits'),
  (r'depthwise/kernel', 'depthwise/depthwise_kernel'),
)


@pytest.mark.keras
@pytest.mark.parametrize('size', ['small', LARGE])
def test_tensorflow_2s_names_fit(size):
  build = getattr(oracles.keras().applications, f'MobileNetV3{size.capitalize()}')
  tensors = {}
  for name, tensor in oracles.keras_tensors(build(weights=None)).items():
    for pattern, replacement in RENAMED:
      name = re.sub(pattern, replacement, name)
    tensors[name] = tensor
  oracles.assert_names_fit(f'mobilenet_v3_{size}_keras', 'keras', tensors)
