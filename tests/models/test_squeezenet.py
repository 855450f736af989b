"""SqueezeNet 1.1 computes what the published one computes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import models, weights
from tljax.data import images
from tljax.measures import scores
from tljax.models import squeezenet

FILE = 'squeezenet1_1_onnx/derived_torchvision_names.safetensors'


@pytest.fixture(scope='module')
def published(shared_data):
  path = shared_data / FILE
  return models.create('squeezenet1_1'), weights.load('squeezenet1_1', path)


@pytest.mark.parametrize('pair', [0, 1, 2])
def test_logits_match_the_recorded_pairs(published, shared_data, pair):
  model, variables = published
  folder = shared_data / f'squeezenet1_1_onnx/test_data_set/{pair}'
  wanted = np.load(folder / 'output_0.npy')
  # Recorded at the network's input, behind the normalisation: undo ours.
  x = np.load(folder / 'input_0.npy').transpose(0, 2, 3, 1)
  x = x * np.float32([[[model.spec.std]]]) + np.float32([[[model.spec.mean]]])
  logits = model.apply(variables, x)['logits']
  np.testing.assert_allclose(logits, wanted.reshape(1, 1000), atol=2e-4, rtol=0)


def test_photographs_are_classified_as_such_a_network_does(published, shared_data):
  model, variables = published
  folder = shared_data / 'imagenet_samples'
  index = json.loads((folder / 'imagenet_class_index.json').read_text())
  classes = {name: int(k) for k, (name, _) in index.items()}
  files = sorted(folder.glob('*.JPEG'))
  labels = np.array([classes[file.name.split('_')[0]] for file in files])
  x = np.stack([images.read(file, 224, 256) for file in files]) / np.float32(255)
  logits = np.asarray(jax.jit(model.apply)(variables, x)['logits'])
  assert len(labels) == 100
  assert 0.60 <= scores.accuracy(logits, labels) <= 0.66  # measured: 0.63
  assert 0.83 <= scores.accuracy(logits, labels, top=5) <= 0.89  # measured: 0.86


@pytest.mark.parametrize('shape', [(2, 13, 14, 3), (1, 7, 7, 2), (1, 8, 5, 1)])
def test_max_pool_is_torchs_with_ceil_mode(shape):
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  height, width = (-(-(size - 3) // 2) + 1 for size in shape[1:3])
  wanted = np.empty((shape[0], height, width, shape[3]), np.float32)
  for i, j in np.ndindex(height, width):
    wanted[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
  np.testing.assert_array_equal(squeezenet._max_pool(jnp.asarray(x)), wanted)


@pytest.mark.torch
def test_features_and_gradients_match_torch_at_an_odd_size():
  torch = pytest.importorskip('torch')
  from benchmarks import torch_twins

  rng = np.random.default_rng(0)
  x = rng.random((1, 65, 79, 3), np.float32)
  model = models.create('squeezenet1_1', 3)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  twin = torch_twins.SqueezeNet()
  names = squeezenet.torchvision_names('squeezenet1_1')
  state = {}
  for ours, theirs in names.items():
    part, *path = ours.split('/')
    if part == 'backbone':
      leaf = variables['params'][part]
      for name in path:
        leaf = leaf[name]
      kernel = np.asarray(leaf['kernel']).transpose(3, 2, 0, 1)
      state[f'{theirs}.weight'] = torch.tensor(kernel)
      state[f'{theirs}.bias'] = torch.tensor(np.asarray(leaf['bias']))
  missing = twin.load_state_dict(state, strict=False)
  assert sorted(missing.missing_keys) == ['mean', 'std'] and not missing.unexpected_keys

  tensor = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
  features = twin(tensor)
  (features**2).sum().backward()

  def loss(x):
    features = model.apply(variables, x)['features']
    return jnp.sum(features**2), features

  gradient, ours = jax.jit(jax.grad(loss, has_aux=True))(x)
  np.testing.assert_allclose(ours, features.detach(), rtol=1e-4, atol=1e-5)
  wanted = tensor.grad.numpy().transpose(0, 2, 3, 1)
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(gradient / scale, wanted / scale, atol=1e-3)


def test_dropout_is_off_in_evaluation_and_on_in_training():
  model = models.create('squeezenet1_1', 3)
  x = np.random.default_rng(0).random((1, 33, 33, 3), np.float32)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  evaluated = model.apply(variables, x)['logits']
  np.testing.assert_array_equal(evaluated, model.apply(variables, x)['logits'])
  outputs = {'map': jnp.ones((1, 2, 2, 512))}
  head = model.head.clone(parent=None)
  trained = [
    head.apply(
      {'params': variables['params']['head']},
      outputs,
      train=True,
      rngs={'dropout': jax.random.key(k)},
    )
    for k in (0, 1)
  ]
  assert not np.array_equal(*trained)
