"""Depthwise convolutions, each channel by itself, that are quick on a CPU.

A sum of shifted products, a tenth of XLA's time, and gradients that are dense sums.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from tljax.models import products, tiles
from tljax.models.windows import between, extent_of, padded, reaching, slices

# Rows of an image that are added up at once, at most and at least: fewer are slower
# than a reduction. Numbers of a kernel at most: more of either compile for long.
_ROWS, _FEWEST, _NUMBERS = 28, 24, 9


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
) -> jax.Array:
  """A convolution of as many groups as there are channels.

  Args:
    x: (N, H, W, C).
    kernel: (height, width, 1, C).
    strides: of either axis.
    padding: low and high, of either axis.

  Returns:
    (N, H', W', C).
  """
  wide = padded(x, padding).astype(products.wide(x.dtype))
  extent = extent_of(x.shape, kernel.shape, strides, padding)
  parts = slices(wide, kernel.shape, strides, extent)
  taps = kernel.reshape(-1, 1, 1, 1, kernel.shape[3]).astype(wide.dtype)
  return sum(part * tap for part, tap in zip(parts, taps, strict=True)).astype(x.dtype)


def _backward(strides, padding, residuals, grad):
  x, kernel = residuals
  wide = products.wide(grad.dtype)
  x = padded(x, padding)
  kernel_grad = _kernel_gradient(x, grad, kernel.shape, strides)
  whole = _spread(grad.astype(wide), kernel.astype(wide), x.shape, strides)
  x_grad = padded(whole, [(-low, -high) for low, high in padding])
  return x_grad.astype(x.dtype), kernel_grad.astype(kernel.dtype)


convolve.defvjp(lambda x, k, *static: (convolve(x, k, *static), (x, k)), _backward)


def _kernel_gradient(x, grad, shape, strides):
  """Sums the products of padded images' pixels and the gradient's, channel by channel.

  Rows are added to rows, number by number, and a row's pixels at the end: so it is
  vectorised, as a reduction of all pixels, for all positions of the kernel, is not.
  Small images, large kernels and several devices have the reduction.
  """
  wide = products.wide(grad.dtype)
  rows = tiles.divisor(grad.shape[1], _ROWS)
  many = shape[0] * shape[1] > _NUMBERS
  if jax.device_count() > 1 or many or rows < _FEWEST:
    return _reduced(x.astype(wide), grad.astype(wide), shape, strides)

  def by_column(pixels, grad):
    parts = slices(pixels.astype(wide), shape, strides, grad.shape[1:3])
    grad = grad.astype(wide)
    return [sum(part[0, i] * grad[0, i] for i in range(rows)) for part in parts]

  window = shape[0], strides[0]
  columns = tiles.sum_over_tiles(by_column, x, grad, (1, rows), window)
  return jnp.stack([column.sum(0) for column in columns]).reshape(shape)


def _reduced(x, grad, shape, strides):
  """The same as one reduction of all products, which XLA would otherwise write down."""
  parts = slices(x, shape, strides, grad.shape[1:3])
  sums = lax.reduce(
    [part * grad for part in parts],
    [jnp.zeros((), grad.dtype)] * len(parts),
    lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
    (0, 1, 2),
  )
  return jnp.stack(sums).reshape(shape)


def _spread(grad, kernel, shape, strides):
  """What each pixel of the padded images gets from the windows that reach it."""
  taps = [-(-n // stride) for n, stride in zip(kernel.shape, strides, strict=False)]
  more = [(0, n * s - m) for n, s, m in zip(taps, strides, kernel.shape, strict=False)]
  kernel = jnp.pad(kernel[:, :, 0], [*more, (0, 0)])
  kernel = kernel.reshape(taps[0], 1, 1, strides[0], taps[1], 1, strides[1], -1)
  windows = reaching(grad, taps, strides, shape)
  return between(
    sum(window * kernel[back[0], :, :, :, back[1]] for back, window in windows), shape
  )
