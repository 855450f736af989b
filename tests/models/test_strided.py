"""Strided convolutions of many channels; their values are in test_convolution.py."""

import functools

import jax
import jax.numpy as jnp
import pytest

from tljax.models import convolution, strided

PADDING = (1, 1), (1, 1)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)


@pytest.mark.parametrize(
  ('kernel', 'strides', 'dtype', 'suits'),
  [
    ((3, 3, 128, 128), (2, 2), jnp.float32, True),
    ((3, 3, 64, 256), (2, 2), jnp.float64, True),
    ((7, 7, 64, 64), (4, 4), jnp.float32, True),
    ((3, 3, 128, 128), (1, 1), jnp.float32, False),
    ((3, 3, 128, 128), (2, 2), jnp.bfloat16, False),
    ((3, 3, 3, 64), (2, 2), jnp.float32, False),
    ((2, 2, 128, 128), (2, 2), jnp.float32, False),
  ],
)
def test_which_convolutions_are_computed_so(monkeypatch, kernel, strides, dtype, suits):
  """And the network's layer is no convolution of XLA's then, forth and back."""
  with jax.enable_x64(dtype == jnp.float64):
    kernel = jax.ShapeDtypeStruct(kernel, dtype)
    assert strided.suits(kernel, strides) == suits
    if suits:
      x = jax.ShapeDtypeStruct((2, 16, 16, kernel.shape[2]), dtype)
      convolve = functools.partial(
        convolution.convolve, strides=strides, padding=PADDING
      )
      step = jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), (0, 1))
      assert 'conv_general_dilated' not in str(jax.make_jaxpr(step)(x, kernel))
  monkeypatch.setattr(jax, 'device_count', lambda: 8)
  assert not strided.suits(kernel, strides)


def test_no_product_of_a_zero_is_computed():
  """Of the images' gradient, by XLA's count: nine products a pixel of four."""
  grad, kernel = jnp.ones((4, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
  gradient = functools.partial(
    strided.image_gradient, strides=(2, 2), padding=PADDING, sides=(16, 16)
  )
  flops = jax.jit(gradient).lower(grad, kernel).compile().cost_analysis()['flops']
  assert flops < 1.05 * 2 * 9 * 64 * grad.size


def test_windows_of_many_images_are_not_laid_at_once():
  x = jax.ShapeDtypeStruct((64, 28, 28, 128), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32)

  def loss(x, kernel):
    return jnp.sum(jnp.tanh(convolution.convolve(x, kernel, (2, 2), PADDING)))

  step = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile()
  assert step.memory_analysis().temp_size_in_bytes < 2 * 4 * x.size
