"""MobileNet computes what Keras' does, and classifies with published weights."""

import itertools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import oracles
from tljax import models, weights
from tljax.measures import scores


@pytest.mark.keras
@pytest.mark.parametrize(
  'quarters', [1, *(pytest.param(q, marks=pytest.mark.slow) for q in (2, 3, 4))]
)
def test_logits_are_keras(quarters):
  v1 = oracles.keras().applications.mobilenet
  model = v1.MobileNet(
    alpha=quarters / 4,
    weights=None,
    classifier_activation=None,
    input_shape=(97, 74, 3),
  )
  name = f'mobilenet_v1_{25 * quarters:03}'
  oracles.check_keras_parity(
    name, model, v1.preprocess_input, ((97, 74),), layout='keras3'
  )


def read_tfjs(folder):
  """Tensors by name of a network in the layers format of TensorFlow.js."""
  groups = json.loads((folder / 'model.json').read_text())['weightsManifest']
  tensors = {}
  for group in groups:
    data = b''.join((folder / path).read_bytes() for path in group['paths'])
    sizes = [int(np.prod(entry['shape'])) for entry in group['weights']]
    parts = np.split(np.frombuffer(data, '<f4'), list(itertools.accumulate(sizes))[:-1])
    for entry, part in zip(group['weights'], parts, strict=True):
      assert entry['dtype'] == 'float32'
      tensors[entry['name']] = part.reshape(entry['shape'])
  return tensors


def test_photographs_are_classified_as_such_a_network_does(
  shared_data, photographs, tmp_path
):
  path = tmp_path / 'weights.safetensors'
  save_file(read_tfjs(shared_data / 'mobilenet_v1_075_tfjs'), path)
  name = 'mobilenet_v1_075'
  variables = weights.load(name, path)
  x, labels = photographs(models.spec(name).resize)
  logits = np.asarray(jax.jit(models.create(name).apply)(variables, x)['logits'])
  # The same tensors in Keras' own network give the same.
  assert 0.84 <= scores.accuracy(logits, labels) <= 0.90  # measured: 0.87
  assert scores.accuracy(logits, labels, top=5) >= 0.96  # measured: 0.99
