"""Convolutions of 3x3 kernels in fewer multiplications, for a CPU.

Winograd's F(2x2, 3x3): a square of four results is sixteen products in place of
thirty-six, of sums of the pixels that it meets and sums of the kernel (Lavin and Gray,
2016, "Fast algorithms for convolutional neural networks", section 4.1). The sums'
factors are 1 and 1/2, so that little is lost to rounding.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tljax.models import tiles
from tljax.models.unfused import unfused
from tljax.models.windows import between, padded

# The names are Lavin and Gray's; a row is a sum.
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
# Fewer channels, or pixels in all, than repay the sums.
_CHANNELS, _PIXELS = 64, 512
_BYTES = 1 << 25  # of the sums at once, lest they leave the cache; or of an image's
Pads = Sequence[tuple[int, int]]


def suits(x: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> bool:
  """Whether a CPU convolves so the quickest."""
  return (
    kernel.shape[:2] == (3, 3)
    and tuple(strides) == (1, 1)
    and min(kernel.shape[2:]) >= _CHANNELS
    and math.prod(x.shape[:3]) >= _PIXELS
    and x.dtype.itemsize >= 4  # the digits of bfloat16 are too few for sums
  )


def convolve(x: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
  """A convolution without strides.

  Args:
    x: (N, H, W, C).
    kernel: (3, 3, C, features).
    padding: low and high, of either axis.

  Returns:
    (N, H', W', features).
  """
  return _convolve(x, kernel, padding, 0)


def image_gradient(grad: jax.Array, kernel: jax.Array, padding: Pads) -> jax.Array:
  """The gradient of a convolution's images, which is a convolution.

  Args:
    grad: (N, H', W', features).
    kernel, padding: of the convolution.

  Returns:
    (N, H, W, C).
  """
  padding = [(2 - low, 2 - high) for low, high in padding]
  return _convolve(grad, kernel[::-1, ::-1], padding, 1)


def kernel_gradient(x: jax.Array, grad: jax.Array, padding: Pads) -> jax.Array:
  """The gradient of a convolution's kernel.

  Args:
    x: (N, H, W, C).
    grad: (N, H', W', features).
    padding: of the convolution.

  Returns:
    (3, 3, C, features).
  """
  channels, features = x.shape[3], grad.shape[3]

  def of_some(x, grad):
    x, grad = _even(x, padding), _even(grad, ((0, 0), (0, 0)))
    sums = _sums(_A.T, _by_feature(grad)), _sums(_B, _squares(x, 4))
    pairs = zip(*sums, strict=True)
    return jnp.stack([given @ met.reshape(-1, channels) for given, met in pairs])

  most = _most(grad.shape, (channels, features), x.dtype)
  total = tiles.sum_over_images(of_some, x, grad, most)
  return _on_kernel(_G.T, total).reshape(3, 3, features, channels).swapaxes(2, 3)


def _convolve(x, kernel, padding, axis):
  """The images' channels are `axis` of the kernel's last two."""
  sides = zip(x.shape[1:3], padding, strict=True)
  height, width = (n + sum(pads) - 2 for n, pads in sides)
  shape = len(x), height, width, kernel.shape[3 - axis]
  kernels = _on_kernel(_G, kernel)

  def convolve_some(x):
    sums = _sums(_B, _squares(_even(x, padding), 4))
    dimensions = ((3,), (axis,)), ((), ())
    pairs = zip(sums, kernels, strict=True)
    products = [lax.dot_general(x, k, dimensions) for x, k in pairs]
    a, b, c, d = _sums(_A, [products[i : i + 4] for i in range(0, 16, 4)])
    return jnp.stack([jnp.stack([a, b], 3), jnp.stack([c, d], 3)], 2)

  most = _most(shape, kernel.shape[2:], x.dtype)
  return between(tiles.over_images(convolve_some, x, most), shape)


def _even(x, padding):
  """Padded, with an even number of pixels on either axis."""
  sides = zip(x.shape[1:3], padding, strict=True)
  return padded(x, [(low, high + (n + low + high) % 2) for n, (low, high) in sides])


def _squares(x, size):
  """The pixels of squares two apart: a list of rows of (N, h, w, C)."""
  h, w = (2 * ((n - size) // 2 + 1) for n in x.shape[1:3])
  return [
    [x[:, i : i + h : 2, j : j + w : 2] for j in range(size)] for i in range(size)
  ]


@unfused
def _by_feature(grad):
  """The pixels of squares of two by two: (2, 2, features, squares).

  A product sums over the last axis, as XLA gives YNNPACK no other of the left side;
  that has 160 GFLOP/s of 64 features where XLA's other products have 50. As it is a
  call, XLA does not transpose anew for each sum.
  """
  count, height, width, features = grad.shape
  squares = grad.reshape(count, height // 2, 2, width // 2, 2, features)
  return squares.transpose(2, 4, 5, 0, 1, 3).reshape(2, 2, features, -1)


def _sums(matrix, squares):
  """The matrix' sums on both axes, as one list."""

  def mixed(parts):
    for row in matrix:
      first, *others = [(f, part) for f, part in zip(row, parts, strict=True) if f]
      total = first[1] if first[0] > 0 else -first[1]
      for factor, part in others:
        total = total + part if factor > 0 else total - part
      yield total

  columns = [list(mixed(column)) for column in zip(*squares, strict=True)]
  return [total for row in zip(*columns, strict=True) for total in mixed(row)]


def _on_kernel(matrix, kernel):
  """The matrix' sums on both axes of a kernel, whose axes become one."""
  sums = jnp.asarray(np.kron(matrix, matrix), kernel.dtype)
  flat = kernel.reshape(sums.shape[1], -1)
  return (sums @ flat).reshape(-1, *kernel.shape[-2:])


def _most(shape, channels, dtype):
  """How many images at once, of results (N, H', W', features) and these channels."""
  _, height, width, _ = shape
  return _BYTES // (4 * height * width * sum(channels) * dtype.itemsize)
