"""Images that a network cannot take are refused in a line, on every kind of device."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from tljax import models
from tljax.errors import InputError
from tljax.models import convolution, pooling


def shapes(name, height, width):
  images = jnp.zeros((1, height, width, 3))
  return jax.eval_shape(
    lambda: models.create(name, 5).init_with_output(jax.random.key(0), images)[0]
  )


@pytest.mark.parametrize(
  'device', [contextlib.nullcontext, convolution.by_xla], ids=['cpu', 'elsewhere']
)
@pytest.mark.parametrize(
  ('name', 'size'),
  [
    ('cnn', 3),
    ('convnext_tiny', 16),
    ('densenet121', 28),
    ('lenet', 12),
    ('squeezenet1_1', 16),
    ('swin_t', 3),
    ('vgg11', 28),
  ],
)
def test_too_small(name, size, device):
  with device(), pytest.raises(InputError, match='the images are too small'):
    shapes(name, size, size)


@pytest.mark.parametrize('name', ['mobilenet_v2', 'resnet18', 'efficientnet_b0'])
def test_padded_networks_take_any(name):
  assert shapes(name, 1, 3)['features'].shape == (1, models.spec(name).feature_dim)


def test_a_pool_wants_a_window():
  with pytest.raises(InputError, match='maps of 1 x 5 pixels for windows of 2 x 2'):
    pooling.max_pool(jnp.zeros((1, 1, 5, 1)), 2, 2)


@pytest.mark.parametrize(('height', 'width'), [(40, 32), (32, 40), (8, 8)])
def test_vits_want_whole_patches(height, width):
  wanted = f'images of {height} x {width} .* multiples of 16'
  with pytest.raises(InputError, match=wanted):
    shapes('vit_tiny_patch16_224', height, width)


def test_no_images_give_nothing():
  model = models.create('cnn', 3)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  images = jnp.zeros((0, 16, 16, 3))
  assert model.apply(variables, images)['logits'].shape == (0, 3)
  grads = jax.grad(lambda v: model.apply(v, images)['logits'].sum())(variables)
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_bytes_are_refused():
  with pytest.raises(InputError, match='images of uint8; they must be floats'):
    models.create('cnn', 3).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3), 'uint8'))


@pytest.mark.parametrize('count', [0, -1])
def test_classes(count):
  with pytest.raises(InputError, match=f'num_classes={count}'):
    models.create('cnn', count)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_stochastic_depth_is_a_rate(rate):
  with pytest.raises(InputError, match='drop_path'):
    models.create('convnext_tiny', 5, drop_path=rate)
