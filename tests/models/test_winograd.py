"""Convolutions by Winograd's algorithm, against sums of every product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models import convolution, winograd


def direct(x, kernel, padding):
  """Every product, in float64, a position of the kernel at a time."""
  x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
  height, width = x.shape[1] - 2, x.shape[2] - 2
  return sum(
    x[:, i : i + height, j : j + width] @ np.asarray(kernel[i, j], np.float64)
    for i in range(3)
    for j in range(3)
  )


def direct_gradients(x, kernel, padding, grad):
  """Of images and kernel: what each product got goes back to both its factors."""
  x, kernel, grad = (np.asarray(a, np.float64) for a in (x, kernel, grad))
  x = np.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = grad.shape[1:3]
  images, kernels = np.zeros_like(x), np.zeros_like(kernel)
  for i in range(3):
    for j in range(3):
      there = np.s_[:, i : i + height, j : j + width]
      images[there] += grad @ kernel[i, j].T
      kernels[i, j] = np.einsum('nhwc,nhwk->ck', x[there], grad)
  (top, bottom), (left, right) = padding
  bottom, right = x.shape[1] - bottom, x.shape[2] - right
  return images[:, top:bottom, left:right], kernels


def drawn(*shapes, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def gradients(x, kernel, padding, grad):
  images = winograd.image_gradient(grad, kernel, padding)
  return images, winograd.kernel_gradient(x, grad, padding)


@pytest.mark.parametrize('at_once', [1, winograd._BYTES])
@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize(
  ('size', 'padding'),
  [
    ((6, 8), ((1, 1), (1, 1))),
    ((7, 5), ((1, 1), (1, 1))),
    ((6, 7), ((0, 0), (0, 0))),
    ((5, 8), ((2, 1), (0, 2))),
    ((5, 6), ((3, 0), (1, 4))),
    ((1, 2), ((1, 1), (1, 1))),
    ((3, 3), ((0, 0), (0, 0))),
  ],
)
def test_every_product_in_double(monkeypatch, at_once, devices, size, padding):
  """Odd and even images, one or all at once."""
  monkeypatch.setattr(winograd, '_BYTES', at_once)
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  with jax.enable_x64(True):
    x, kernel = drawn((4, *size, 3), (3, 3, 3, 5), dtype=jnp.float64)
    wanted = direct(x, kernel, padding)
    given = winograd.convolve(x, kernel, padding)
    (grad,) = drawn(wanted.shape, dtype=jnp.float64)
    given = [given, *jax.jit(gradients, static_argnums=2)(x, kernel, padding, grad)]
  for a, b in zip(
    given, [wanted, *direct_gradients(x, kernel, padding, grad)], strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_rounding_in_single_is_of_the_last_digits():
  """Within five times what the direct sums lose, by root mean square."""
  padding = ((1, 1), (1, 1))
  x, kernel, grad = drawn((8, 14, 14, 128), (3, 3, 128, 64), (8, 14, 14, 64))
  wanted = [direct(x, kernel, padding), *direct_gradients(x, kernel, padding, grad)]
  given = [winograd.convolve(x, kernel, padding), *gradients(x, kernel, padding, grad)]
  with convolution.by_xla():
    forward = functools.partial(convolution.convolve, strides=(1, 1), padding=padding)
    out, pull = jax.vjp(forward, x, kernel)
    direct_sums = out, *pull(grad)
  for exact, ours, xlas in zip(wanted, given, direct_sums, strict=True):
    lost, lost_by_xla = (np.std(a - exact) for a in (ours, xlas))
    assert lost < 5 * lost_by_xla
    assert lost < 2e-6 * np.std(exact)


@pytest.mark.parametrize(
  ('images', 'kernel', 'strides', 'dtype', 'suits'),
  [
    ((8, 28, 28, 128), (3, 3, 128, 128), (1, 1), jnp.float32, True),
    ((8, 56, 56, 64), (3, 3, 64, 64), (1, 1), jnp.float32, True),
    ((8, 28, 28, 128), (3, 3, 128, 128), (1, 1), jnp.bfloat16, False),
    ((8, 28, 28, 128), (3, 3, 128, 128), (2, 2), jnp.float32, False),
    ((8, 28, 28, 128), (5, 5, 128, 128), (1, 1), jnp.float32, False),
    ((8, 28, 28, 16), (3, 3, 16, 128), (1, 1), jnp.float32, False),
    ((1, 7, 7, 512), (3, 3, 512, 512), (1, 1), jnp.float32, False),
  ],
)
def test_which_convolutions_are_computed_so(images, kernel, strides, dtype, suits):
  """Those with fewer multiplications than the direct sum has, by XLA's count."""
  x, kernel = jax.ShapeDtypeStruct(images, dtype), jax.ShapeDtypeStruct(kernel, dtype)
  assert winograd.suits(x, kernel, strides) == suits
  if suits:
    step = jax.jit(
      functools.partial(convolution.convolve, strides=strides, padding='SAME')
    )
    flops = step.lower(x, kernel).compile().cost_analysis()['flops']
    assert flops < 0.6 * 2 * x.size * 9 * kernel.shape[3]


def test_second_derivatives_of_the_kernels_gradient():
  padding = (1, 1), (1, 1)
  with jax.enable_x64(True):
    x, grad = drawn((2, 6, 5, 3), (2, 6, 5, 4), dtype=jnp.float64)

    def of_rule(x, grad):
      return jnp.sum(jnp.tanh(winograd.kernel_gradient(x, grad, padding)))

    def of_windows(x, grad):
      x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
      parts = [x[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)]
      return sum(jnp.sum(jnp.tanh(jnp.einsum('nhwc,nhwk->ck', p, grad))) for p in parts)

    given, wanted = (
      jax.jit(jax.grad(function, (0, 1)))(x, grad) for function in (of_rule, of_windows)
    )
  for a, b in zip(given, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)
