"""The digits' networks compute what the same ones written for PyTorch compute."""

import functools

import jax
import numpy as np
import pytest

from tests import oracles
from tljax import models


def lenet(rate):
  nn = oracles.torch().nn
  return nn.Sequential(
    nn.Conv2d(3, 20, 5),
    nn.MaxPool2d(2),
    nn.ReLU(),
    nn.Conv2d(20, 50, 5),
    nn.Dropout2d(rate),
    nn.MaxPool2d(2),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(50 * 4 * 4, 500),
    nn.ReLU(),
    nn.Dropout(rate),
  )


def dtn(rate):
  nn, layers = oracles.torch().nn, []
  for inputs, width in ((3, 64), (64, 128), (128, 256)):
    conv = nn.Conv2d(inputs, width, 5, 2, 2)
    layers += [conv, nn.BatchNorm2d(width), nn.Dropout2d(rate), nn.ReLU()]
  dense = nn.Linear(256 * 4 * 4, 512)
  layers += [nn.Flatten(), dense, nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(rate)]
  return nn.Sequential(*layers)


TWINS = {'lenet': lenet, 'dtn': dtn}


def twin(name, rate=0.5):
  """The network named as the Transfer Learning Library does."""
  nn = oracles.torch().nn
  network = nn.Sequential()
  network.add_module('backbone', TWINS[name](rate))
  network.add_module('head', nn.Linear(models.spec(name).feature_dim, 1000))
  return network


@pytest.mark.torch
@pytest.mark.parametrize('name', TWINS)
def test_logits_are_the_twins(name):
  oracles.check_torch_parity(name, twin(name), 'tllib')


@pytest.mark.torch
@pytest.mark.parametrize('name', TWINS)
def test_training_is_the_twins(name):
  size = models.spec(name).input_size
  oracles.check_torch_training(name, twin(name, rate=0.0), 'tllib', size)


@pytest.mark.parametrize('name', TWINS)
def test_grey_images_will_do(name):
  model = models.create(name, 10, in_channels=1)
  size = models.spec(name).input_size
  x = np.random.default_rng(0).random((2, size, size, 1), np.float32)
  outputs, variables = jax.jit(model.init_with_output)(jax.random.key(0), x)
  assert outputs['logits'].shape == (2, 10)
  kernel = variables['params']['backbone']['stage1']['conv']['kernel']
  assert kernel.shape[:3] == (5, 5, 1)


def test_dropout_drops_whole_channels_in_training():
  model = models.create('lenet', 10)
  x = np.random.default_rng(0).random((4, 28, 28, 3), np.float32)
  variables = jax.jit(model.init)(jax.random.key(0), x)

  @functools.partial(jax.jit, static_argnames='train')
  def maps(variables, train):
    rngs = {'dropout': jax.random.key(1)}
    return model.apply(variables, x, train=train, rngs=rngs)['map']

  full, trained = maps(variables, False), maps(variables, True)
  dropped = np.asarray((trained == 0).all((1, 2)))
  assert 0.3 < dropped.mean() < 0.7
  kept = np.broadcast_to(~dropped[:, None, None], trained.shape)
  np.testing.assert_allclose(trained[kept], 2 * full[kept], rtol=1e-5)
