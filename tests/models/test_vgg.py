"""VGGs compute what torchvision's, timm's and Keras' compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax import models
from tljax.models.base import FlattenMLP
from tljax.models.layouts import TORCH, Layout, Module, Tensor, flattened
from tljax.models.pooling import adaptive_mean_pool
from tljax.weights import convert


def some(*small, slow):
  """Names, of which `slow` are so."""
  return [*small, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


@pytest.mark.torch
@pytest.mark.parametrize(
  'name',
  some(
    'vgg11_bn',
    slow=('vgg11', 'vgg13', 'vgg13_bn', 'vgg16', 'vgg16_bn', 'vgg19', 'vgg19_bn'),
  ),
)
def test_logits_are_torchvisions(name):
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision', ((75, 97),))


@pytest.mark.torch
@pytest.mark.slow
def test_logits_of_large_images_are_torchvisions():
  module = oracles.torch_hub('torchvision').models.vgg16()
  oracles.check_torch_parity('vgg16', module, 'torchvision', (224, (257, 330)))


@pytest.mark.torch
@pytest.mark.parametrize('name', some('vgg11', slow=('vgg16', 'vgg19_bn')))
def test_logits_are_timms(name):
  module = oracles.torch_hub('timm').create_model(name)
  oracles.check_torch_parity(name, module, 'timm', ((97, 75),))


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.vgg11_bn(dropout=0.0)
  oracles.check_torch_training('vgg11_bn', module, 'torchvision', 64)


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize('size', [16, 19])
def test_logits_are_keras(size):
  vgg = getattr(oracles.keras().applications, f'vgg{size}')
  model = getattr(vgg, f'VGG{size}')(weights=None, classifier_activation=None)
  oracles.check_keras_parity(f'vgg{size}_keras', model, vgg.preprocess_input)


# The founding example: the network without its top, Flatten, Dense 512 with ReLU,
# Dropout 0.5, and the classifier; at 64x96, where the map is 2x3.


def founding(name, tensors, layout):
  """The example in tljax with another framework's weights, and images for it."""
  model = models.create(name).clone(head=FlattenMLP(5))
  x = oracles.images((64, 96))
  abstract = jax.eval_shape(model.init, jax.random.key(0), x)
  shapes = {path: leaf.shape for path, leaf in convert.flatten(abstract).items()}
  assert shapes['head/fc1/kernel'] == (2 * 3 * 512, 512)
  variables = convert.unflatten(convert.load(tensors, layout, shapes), abstract)
  return model, variables, x


@pytest.mark.torch
def test_the_founding_example_is_torchs():
  torch, name = oracles.torch(), 'vgg16'
  nn = torch.nn
  head = [nn.Flatten(), nn.Linear(2 * 3 * 512, 512), nn.ReLU(), nn.Dropout()]
  module = nn.Sequential()
  # Of the published network only `features`, without the memory of the rest.
  with torch.device('meta'):
    features = oracles.torch_hub('torchvision').models.vgg16().features
  module.add_module('features', features.to_empty(device='cpu'))
  module.add_module('head', nn.Sequential(*head, nn.Linear(512, 5)))
  for layer in features:
    if isinstance(layer, nn.Conv2d):
      nn.init.kaiming_normal_(layer.weight)
      nn.init.zeros_(layer.bias)
  oracles.randomise(module)
  kernel = flattened(512, 2, 3, -1, 2 * 3 * 512)
  rules = (
    Tensor('head/fc1/kernel', 'head.1.weight', kernel),
    Module('head/fc1', 'head.1'),
    Module('head/classifier', 'head.4'),
    *models.family(name).layouts(name)['torchvision'].rules,
  )
  state = oracles.state_dict(module)
  model, variables, x = founding(name, state, Layout(TORCH, rules))
  with torch.no_grad():
    wanted = module(torch.from_numpy(oracles.normalised(name, x))).numpy()
  logits = jax.jit(model.apply)(variables, x)['logits']
  oracles.assert_same_logits(logits, wanted)


@pytest.mark.keras
def test_the_founding_example_is_keras():
  keras = oracles.keras()
  layers, vgg16 = keras.layers, keras.applications.vgg16
  base = vgg16.VGG16(weights=None, include_top=False, input_shape=(64, 96, 3))
  y = layers.Flatten()(base.output)
  y = layers.Dense(512, activation='relu', name='fc1')(y)
  y = layers.Dense(5, name='predictions')(layers.Dropout(0.5)(y))
  theirs = keras.Model(base.input, y)
  layout = models.family('vgg16_keras').layouts('vgg16_keras')['keras']
  model, variables, x = founding('vgg16_keras', oracles.keras_tensors(theirs), layout)
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    wanted = np.asarray(theirs(vgg16.preprocess_input(x * 255), training=False))
  logits = jax.jit(model.apply)(variables, x)['logits']
  oracles.assert_same_logits(logits, wanted)


@pytest.mark.torch
@pytest.mark.parametrize('shape', [(7, 7), (14, 7), (2, 3), (9, 8), (13, 30)])
def test_the_adaptive_pool_is_torchs(shape):
  x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
  pool = oracles.torch().nn.AdaptiveAvgPool2d(7)
  wanted = pool(oracles.torch().from_numpy(x.transpose(0, 3, 1, 2))).numpy()
  pooled = adaptive_mean_pool(jnp.asarray(x), 7)
  np.testing.assert_allclose(pooled, wanted.transpose(0, 2, 3, 1), atol=1e-6)
