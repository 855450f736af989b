"""Max-pool as flax's, with PyTorch's choice among equals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax.models.pooling import max_pool


@pytest.mark.parametrize('extent', [(8, 9), (7, 5), (6, 6)])
@pytest.mark.parametrize(
  'settings', [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)]
)
def test_values_and_gradients_are_flaxs(extent, settings):
  size, stride, padding = settings
  x = jax.random.normal(jax.random.key(0), (2, *extent, 3))

  def flaxs(x):
    pads = ((padding, padding),) * 2
    return nn.max_pool(x, (size, size), (stride, stride), pads)

  wanted, pull_wanted = jax.vjp(flaxs, x)
  given, pull = jax.vjp(lambda x: max_pool(x, *settings), x)
  np.testing.assert_array_equal(given, wanted)
  np.testing.assert_array_equal(max_pool(x, *settings), wanted)
  grad = jax.random.normal(jax.random.key(1), given.shape)
  np.testing.assert_allclose(pull(grad)[0], pull_wanted(grad)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize(
  'settings', [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)]
)
def test_gradients_are_autodiffs_in_double(settings, ties):
  """Of XLA's own pool, whose gradient too goes to the first of equal pixels."""
  size, stride, padding = settings
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    x = rng.integers(0, 3, (2, 9, 10, 3)) if ties else rng.normal(size=(2, 9, 10, 3))
    x = jnp.asarray(x, jnp.float64)

    def xlas(x):
      window, strides = (1, size, size, 1), (1, stride, stride, 1)
      pads = ((0, 0), *((padding, padding),) * 2, (0, 0))
      return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, pads)

    wanted, pull_wanted = jax.vjp(xlas, x)
    given, pull = jax.vjp(lambda x: max_pool(x, *settings), x)
    grad = jnp.asarray(rng.normal(size=given.shape))
    found, expected = pull(grad)[0], pull_wanted(grad)[0]
  assert found.dtype == jnp.float64
  np.testing.assert_array_equal(given, wanted)
  np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('shape', [(2, 13, 14, 3), (1, 7, 7, 2), (1, 8, 5, 1)])
def test_windows_that_overhang(shape):
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  height, width = (-(-(size - 3) // 2) + 1 for size in shape[1:3])
  wanted = np.empty((shape[0], height, width, shape[3]), np.float32)
  grad_wanted = np.zeros_like(x)
  for i, j in np.ndindex(height, width):
    window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
    wanted[:, i, j] = window.max((1, 2))
    grad_wanted[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += window == window.max(
      (1, 2), keepdims=True
    )
  given, pull = jax.vjp(lambda x: max_pool(x, 3, 2, ceil=True), jnp.asarray(x))
  np.testing.assert_array_equal(given, wanted)
  np.testing.assert_array_equal(pull(jnp.ones_like(given))[0], grad_wanted)


def test_of_equal_pixels_the_first_takes_the_gradient():
  grad = jax.grad(lambda x: jnp.sum(max_pool(x, 2, 2)))(jnp.ones((1, 4, 4, 1)))
  np.testing.assert_array_equal(grad[0, :, :, 0], np.tile([[1, 0], [0, 0]], (2, 2)))


@pytest.mark.torch
def test_gradients_are_torchs_with_ties():
  torch = oracles.torch()
  x = np.random.default_rng(0).integers(0, 3, (2, 9, 10, 3)).astype(np.float32)
  given, pull = jax.vjp(lambda x: max_pool(x, 3, 2, 1), jnp.asarray(x))
  image = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
  pooled = torch.nn.functional.max_pool2d(image, 3, 2, 1)
  pooled.sum().backward()
  np.testing.assert_array_equal(given, pooled.detach().numpy().transpose(0, 2, 3, 1))
  wanted = image.grad.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_array_equal(pull(jnp.ones_like(given))[0], wanted)


@pytest.mark.torch
@pytest.mark.parametrize('settings', [(2, 2, 1), (3, 3, 1), (3, 2, 1), (3, 2, 0)])
@pytest.mark.parametrize('extent', [(3, 4), (5, 8), (6, 7)])
def test_overhangs_are_torchs(extent, settings):
  torch = oracles.torch()
  x = np.random.default_rng(0).normal(size=(2, *extent, 3)).astype(np.float32)
  image = torch.tensor(x.transpose(0, 3, 1, 2))
  wanted = torch.nn.functional.max_pool2d(image, *settings, ceil_mode=True)
  given = max_pool(jnp.asarray(x), *settings, ceil=True)
  np.testing.assert_array_equal(given, wanted.numpy().transpose(0, 2, 3, 1))
