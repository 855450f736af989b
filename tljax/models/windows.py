"""The windows of a convolution or a pool: their pixels, and those that reach a pixel.

Adding up the windows that reach a pixel keeps a gradient dense: strided slices have
gradients that are full of zeros.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from tljax.errors import InputError


def extent_of(
  images: Sequence[int],
  kernel: Sequence[int],
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
) -> list[int]:
  """How many windows there are on either axis, by the shapes of images and kernel.

  Raises:
    InputError: there are none.
  """
  sides = zip(images[1:3], kernel[:2], strides, padding, strict=True)
  extent = [(n + sum(pads) - size) // stride + 1 for n, size, stride, pads in sides]
  if min(extent) < 1:
    maps, windows = (' x '.join(map(str, s)) for s in (images[1:3], kernel[:2]))
    raise InputError(
      f'a layer has maps of {maps} pixels for windows of {windows}; the images are too '
      'small for this network, resize them'
    )
  return extent


def padded(x: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
  """Images (N, H, W, C) with zeros around; a negative padding, as gradients have, cuts.

  Args:
    x: the images.
    pads: low and high, of either axis.
  """
  inner = ((low, high, 0) for low, high in pads)
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def slices(
  x: jax.Array, kernel: Sequence[int], strides: Sequence[int], extent: Sequence[int]
) -> list[jax.Array]:
  """Of padded images, for each position of the kernel the pixels that it meets.

  Args:
    x: (N, H, W, C).
    kernel: (height, width, ...).
    strides: of the windows.
    extent: how many windows there are on either axis.

  Returns:
    Arrays (N, *extent, C), row by row of the kernel.
  """
  high, wide = ((n - 1) * s + 1 for n, s in zip(extent, strides, strict=True))
  return [
    x[:, i : i + high : strides[0], j : j + wide : strides[1]]
    for i in range(kernel[0])
    for j in range(kernel[1])
  ]


def beside(
  x: jax.Array, kernel: Sequence[int], strides: Sequence[int], extent: Sequence[int]
) -> jax.Array:
  """The `slices` side by side: (N, *extent, height width C)."""
  return jnp.concatenate(slices(x, kernel, strides, extent), -1)


def reaching(
  values: jax.Array,
  taps: Sequence[int],
  strides: Sequence[int],
  shape: Sequence[int],
  fill: float = 0,
) -> Iterator[tuple[tuple[int, int], jax.Array]]:
  """Yields, of the windows that reach a pixel, each one's value, nearest last.

  Args:
    values: (N, h, w, C), a value of every window.
    taps: how many windows reach a pixel on either axis: their size by their stride,
      rounded up.
    strides: of the windows.
    shape: (N, H, W, C) of the images that the windows move over.
    fill: the value of windows that there are none of.

  Yields:
    How many windows further back, on either axis, and the values (N, rows, 1, columns,
    1, C), for a pixel's place between strides to be broadcast against.
  """
  rows, columns = (-(-n // s) for n, s in zip(shape[1:3], strides, strict=True))
  after = rows - values.shape[1], columns - values.shape[2]
  pads = [(n - 1, max(0, m)) for n, m in zip(taps, after, strict=True)]
  values = jnp.pad(values, [(0, 0), *pads, (0, 0)], constant_values=fill)
  for back in itertools.product(*map(range, taps)):
    top, left = taps[0] - 1 - back[0], taps[1] - 1 - back[1]
    yield back, values[:, top : top + rows, None, left : left + columns, None]


def between(values: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Images (N, H, W, C) of values by place: (N, rows, stride, columns, stride, C)."""
  count, rows, high, columns, wide, channels = values.shape
  whole = values.reshape(count, rows * high, columns * wide, channels)
  return whole[:, : shape[1], : shape[2]]
