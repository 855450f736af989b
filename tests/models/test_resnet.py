"""ResNets compute what torchvision's and Keras' compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax import models
from tljax.models import resnet
from tljax.weights import convert


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


@pytest.mark.keras
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


def test_keras_older_name_of_the_classifier_loads_alike():
  name, rng = 'resnet50_keras', np.random.default_rng(0)
  abstract = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  )
  shapes = {path: leaf.shape for path, leaf in convert.flatten(abstract).items()}
  leaves = {k: rng.random(shape, np.float32) for k, shape in shapes.items()}
  layouts = resnet.layouts(name)
  new = convert.store(leaves, layouts['keras'])
  old = {k.replace('predictions', 'probs'): v for k, v in new.items()}
  assert 'probs/kernel' in old
  for tensors, layout in ((new, 'keras'), (old, 'keras_2019')):
    assert convert.choose_layout(tensors, layouts, shapes) is layouts[layout]
    loaded = convert.load(tensors, layouts[layout], shapes)
    assert all(np.array_equal(loaded[path], leaf) for path, leaf in leaves.items())
