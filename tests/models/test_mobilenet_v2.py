"""MobileNetV2 computes what torchvision's, timm's, Keras' and Gluon's compute."""

import jax
import numpy as np
import pytest

from tests import oracles
from tljax import models, weights
from tljax.weights import convert


@pytest.mark.torch
def test_logits_are_torchvisions():
  module = oracles.torch_hub('torchvision').models.mobilenet_v2()
  oracles.check_torch_parity('mobilenet_v2', module, 'torchvision', ((75, 97),))


@pytest.mark.torch
def test_logits_are_timms():
  module = oracles.torch_hub('timm').create_model('mobilenetv2_100')
  oracles.check_torch_parity('mobilenet_v2', module, 'timm', (64,))


@pytest.mark.torch
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.mobilenet_v2(dropout=0.0)
  oracles.check_torch_training('mobilenet_v2', module, 'torchvision', 48)


@pytest.mark.keras
def test_logits_are_keras():
  v2 = oracles.keras().applications.mobilenet_v2
  model = v2.MobileNetV2(
    weights=None, classifier_activation=None, input_shape=(97, 74, 3)
  )
  oracles.check_keras_parity(
    'mobilenet_v2_keras', model, v2.preprocess_input, ((97, 74),), layout='keras3'
  )


def test_keras_older_name_of_the_classifier_is_known():
  layouts = models.family('mobilenet_v2').layouts('mobilenet_v2_keras')
  new, old = (
    layouts[k].names({'head/classifier/kernel': (1280, 9)})
    for k in ('keras', 'keras_2018')
  )
  path = 'head/classifier/kernel'
  assert new[path][0] == ('predictions/kernel',) and old[path][0] == ('Logits/kernel',)


def test_gluons_batch_norms_hold_the_statistics_of_photographs(
  shared_data, photographs, tmp_path
):
  """The recorded logits tell nothing: the classifier is not published. But its stored
  variances tell the network apart: with ReLU6 the difference below is 0.11, with
  torchvision's strides 0.08.
  """
  folder = shared_data / 'mobilenetv2_bn_onnx_notop/weights'
  path = tmp_path / 'weights.npz'
  np.savez(path, **{file.stem: np.load(file) for file in folder.glob('*.npy')})
  name = 'mobilenet_v2_gluon'
  variables, model = weights.load_backbone(name, path), models.create(name)

  @jax.jit
  def statistics(x):
    return model.apply(variables, x, True, mutable=['batch_stats'], method='embed')[1]

  x, _ = photographs(256)
  moved = convert.flatten(dict(statistics(x[::4])))
  stored = convert.flatten({'batch_stats': variables['batch_stats']})
  differences = []
  for key in stored:
    if key.endswith('/var'):
      seen = (moved[key] - 0.9 * stored[key]) / 0.1
      ratio = np.maximum(seen, 1e-9) / (stored[key] + 1e-9)
      differences.append(np.median(np.abs(np.log(ratio))))
  assert len(differences) == 53
  assert max(differences) < 0.2  # measured: 0.17
  assert np.mean(differences) < 0.055  # measured: 0.047
