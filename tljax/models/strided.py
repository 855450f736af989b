"""Convolutions of many channels whose windows overlap and stride, for a CPU.

XLA's take up to twice the time of products of windows that stay in the cache. Their
gradient of the images would be a convolution over a grid of values that is mostly
zeros, with every product computed. But pixels that lie alike between strides are met by
the same positions of the kernel: each such phase is a sum of products without zeros.
"""

import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from tljax.models import products, tiles
from tljax.models.unfused import on_cpu_alone, unfused
from tljax.models.windows import beside, between, extent_of, padded, slices

_CHANNELS = 64  # fewer make products that are too small
_BYTES = 1 << 23  # of the windows at once, lest they leave the cache
Pads = Sequence[tuple[int, int]]


def suits(kernel: jax.Array, strides: Sequence[int]) -> bool:
  """Whether a CPU convolves so the quickest; not where a loop would gather images."""
  return (
    on_cpu_alone()
    and all(n > s > 1 for n, s in zip(kernel.shape, strides, strict=False))
    and min(kernel.shape[2:]) >= _CHANNELS
    and kernel.dtype.itemsize >= 4  # the digits of bfloat16 are too few for sums
  )


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Pads
) -> jax.Array:
  """A convolution.

  Args:
    x: (N, H, W, C).
    kernel: (height, width, C, features).
    strides, padding: of either axis.

  Returns:
    (N, H', W', features).
  """
  extent = extent_of(x.shape, kernel.shape, strides, padding)

  def convolve_some(x):
    windows = _windows(padded(x, padding), kernel.shape, strides, extent)
    return products.product(windows, kernel.reshape(-1, kernel.shape[3]))

  return tiles.over_images(convolve_some, x, _most(extent, kernel))


def image_gradient(
  grad: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Pads,
  sides: Sequence[int],
) -> jax.Array:
  """The gradient of a convolution's images.

  Args:
    grad: (N, H', W', features).
    kernel, strides, padding: of the convolution.
    sides: height and width of the images.

  Returns:
    (N, *sides, C).
  """
  axes = zip(kernel.shape, strides, padding, sides, grad.shape[1:], strict=False)
  rows, columns = (list(_phases(*axis)) for axis in axes)

  def of_phase(grad, row, column):
    (down, top), (right, left) = row, column
    taps, grad = kernel[down, right][::-1, ::-1], padded(grad, (top, left))
    extent = extent_of(grad.shape, taps.shape, (1, 1), ((0, 0), (0, 0)))
    parts = slices(grad, taps.shape, (1, 1), extent)
    taps = taps.reshape(-1, *taps.shape[2:]).swapaxes(1, 2)
    return sum(map(products.product, parts, taps))

  def of_some(grad):
    lines = [jnp.stack([of_phase(grad, row, c) for c in columns], 3) for row in rows]
    return jnp.stack(lines, 2)

  parts = tiles.over_images(of_some, grad, _most(grad.shape[1:], kernel))
  return between(parts, (len(grad), *sides))


def kernel_gradient(
  x: jax.Array,
  grad: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Pads,
) -> jax.Array:
  """The gradient of a convolution's kernel.

  Args:
    x: (N, H, W, C).
    grad: (N, H', W', features).
    kernel, strides, padding: of the convolution.

  Returns:
    (height, width, C, features).
  """
  extent = grad.shape[1:3]

  def of_some(x, grad):
    windows = _windows(padded(x, padding), kernel.shape, strides, extent)
    return products.outer(windows, grad)

  total = tiles.sum_over_images(of_some, x, grad, _most(extent, kernel))
  return total.reshape(kernel.shape)


def _windows(x, kernel, strides, extent):
  """(N, *extent, height width C), of padded images; in memory, once."""
  return unfused(lambda x: beside(x, kernel, strides, extent))(x)


def _phases(size, stride, pads, side, extent) -> Iterator[tuple[slice, tuple]]:
  """Of an axis, which of the kernel's positions meet the pixels of a phase.

  And what the windows' gradients are padded by, so that each pixel of the phase is met
  by as many beside each other, in reversed order.
  """
  for phase in range(stride):
    back, first = divmod(phase + pads[0], stride)
    count = len(range(first, size, stride))
    low = count - 1 - back
    yield slice(first, None, stride), (low, -(-side // stride) + back - extent)


def _most(extent, kernel):
  """How many images at once, by the bytes of their windows."""
  size = math.prod(extent[:2]) * math.prod(kernel.shape[:3]) * kernel.dtype.itemsize
  return _BYTES // size
