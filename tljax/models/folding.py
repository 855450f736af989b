"""Convolutions of few channels, of several columns and results at once.

Columns beside each other are channels of one, so that fewer and longer slices make up
the windows; and results in a row are features of one, as a product of few columns is
slow. The kernel is repeated for each of them, shifted, with zeros between: LeNet's
first has 80 features for 20, of two blocks of four columns each. So a pixel that is no
number makes its neighbours' results none.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tljax.models import tiles
from tljax.models.windows import padded

# Columns from which a kernel is wide, channels below which those of a wide one, or of
# any, are few, and features that results in a row may have together.
_WIDE, _FEW, _FEWER, _FEATURES = 5, 32, 8, 112


class Form(NamedTuple):
  """How a convolution is computed: linear maps of what it has, and its strides.

  Attributes:
    images: pads (N, H, W, C), and folds columns: (N, H', blocks, block C).
    kernel: of (height, width, C, K), (height, blocks, block C, beside K).
    results: of what it gave, (N, h, w, K), (N, h, w / beside, beside K).
    strides: of the windows then.
  """

  images: Callable[[jax.Array], jax.Array]
  kernel: Callable[[jax.Array], jax.Array]
  results: Callable[[jax.Array], jax.Array]
  strides: tuple[int, int]


def suits(kernel: jax.Array) -> bool:
  """Whether a wide kernel has few channels, so that columns are to be channels."""
  return kernel.shape[1] >= _WIDE and kernel.shape[2] < _FEW


def form(
  kernel: jax.Array,
  extent: Sequence[int],
  strides: tuple[int, int],
  padding: Sequence[tuple[int, int]],
) -> Form:
  """The form that suits a kernel: folded, with results in a row alone, or as it is.

  Args:
    kernel: (height, width, C, K).
    extent: how many windows there are on either axis.
    strides, padding: of the convolution.
  """
  _, width, channels, features = kernel.shape
  beside, block = 1, 1
  if suits(kernel) or channels < _FEWER:
    beside = tiles.divisor(extent[1], min(width, _FEATURES // features))
  stride = beside * strides[1]
  width += stride - strides[1]
  if suits(kernel):
    block, stride = stride, 1
  blocks = -(-width // block)

  def images(x):
    low, count = padding[1][0], (extent[1] // beside - 1) * stride + blocks
    high = count * block - x.shape[2] - low
    x = padded(x, (padding[0], (low, high)))
    return x.reshape(*x.shape[:2], count, block * channels)

  def repeat(kernel):
    more = blocks * block - kernel.shape[1]
    shifts = [(i, more - i) for i in range(0, beside * strides[1], strides[1])]
    copies = [jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts]
    kernel = jnp.concatenate(copies, -1)
    return kernel.reshape(len(kernel), blocks, block * channels, beside * features)

  def results(y):
    return y.reshape(*y.shape[:2], extent[1] // beside, beside * features)

  return Form(images, repeat, results, (strides[0], stride))
