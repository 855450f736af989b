"""Pooling whose gradients are quick on a CPU too."""

import functools

import jax
import jax.numpy as jnp

from tljax.models.unfused import unfused
from tljax.models.windows import between, extent_of, reaching, slices


def max_pool(
  x: jax.Array, size: int, stride: int, padding: int = 0, ceil: bool = False
) -> jax.Array:
  """Max-pool of (N, H, W, C); the padding never wins.

  Of equal pixels the first in a window, row by row, takes the gradient, as PyTorch has
  it.

  Args:
    x: images.
    size, stride: of the windows; the stride is no larger.
    padding: on each side.
    ceil: whether windows that overhang the end count, as with PyTorch's ceil_mode.

  Raises:
    InputError: no window fits.
  """

  def overhang(n):
    more = -(n + 2 * padding - size) % stride if ceil else 0
    # No window starts beyond the image.
    return more if padding + more < size else 0

  pads = [(padding, padding + overhang(n)) for n in x.shape[1:3]]
  x = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)
  extent_of(x.shape, (size, size), (stride, stride), ((0, 0), (0, 0)))  # raises
  return _max_pool(x, size, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, size, stride):
  for axis in (1, 2):
    last = (x.shape[axis] - size) // stride * stride + 1
    pixels = [jax.lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(size)]
    x = functools.reduce(jnp.maximum, pixels)
  return x


def _forward(x, size, stride):
  """Remembers which pixel of each window won."""
  sizes, strides = (size, size), (stride, stride)
  extent = extent_of(x.shape, sizes, strides, ((0, 0), (0, 0)))
  largest, *pixels = slices(x, sizes, strides, extent)
  winner = jnp.zeros(largest.shape, jnp.int16)
  for number, pixel in enumerate(pixels, 1):
    winner = jnp.where(pixel > largest, jnp.int16(number), winner)
    largest = jnp.maximum(largest, pixel)
  return largest, (winner, x.shape)


def _backward(size, stride, residuals, grad):
  """Adds up what a pixel won, window by window of those that reach it."""
  winner, shape = residuals
  strides, taps = (stride, stride), [-(-size // stride)] * 2
  # Pixels by their places between two windows' starts.
  row = jnp.arange(stride, dtype=winner.dtype).reshape(1, 1, stride, 1, 1, 1)

  def add_up(winner, grad):
    total = jnp.zeros((), grad.dtype)
    grads = reaching(grad, taps, strides, shape)
    winners = reaching(winner, taps, strides, shape, fill=-1)
    for (back, mine), (_, won) in zip(grads, winners, strict=True):
      column = row.swapaxes(2, 4) + stride * back[1]
      number = jnp.where(column < size, (row + stride * back[0]) * size + column, -2)
      total += jnp.where(won == number, mine, 0)
    return between(total, shape)

  return (unfused(add_up)(winner, grad),)


_max_pool.defvjp(_forward, _backward)


def adaptive_mean_pool(x: jax.Array, size: int) -> jax.Array:
  """Means of (N, H, W, C) over `size` x `size` cells, as PyTorch's AdaptiveAvgPool2d.

  Cells of a size that does not divide overlap, and fewer rows than cells repeat.
  """
  for axis in (1, 2):
    rows = x.shape[axis]
    cells = [(i * rows // size, -(-(i + 1) * rows // size)) for i in range(size)]
    means = [jax.lax.slice_in_dim(x, a, b, axis=axis).mean(axis) for a, b in cells]
    x = jnp.stack(means, axis)
  return x
