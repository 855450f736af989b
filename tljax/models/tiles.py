"""Images, or strips of them, some at a time.

So what is made of them stays in a CPU's cache.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from chex import ArrayTree
from jax import lax


def at_once(count: int, most: int) -> int:
  """How many of so many images: a divisor, up to `most`, and at least 1.

  With several devices it is all of them, as a loop would gather what they share.
  """
  return count if jax.device_count() > 1 else divisor(count, most)


def over_images(
  function: Callable[[jax.Array], jax.Array], x: jax.Array, most: int
) -> jax.Array:
  """Maps images (N, ...) to results (N, ...), at most so many at once."""
  some = at_once(len(x), most)
  if some == len(x):
    return function(x)
  if not isinstance(x, jax.core.Tracer):  # a loop is compiled anew at every call
    return jnp.concatenate([function(x[i : i + some]) for i in range(0, len(x), some)])

  def add(results, start):
    part = function(lax.dynamic_slice_in_dim(x, start, some))
    return lax.dynamic_update_slice_in_dim(results, part, start, 0), None

  part = jax.eval_shape(function, jax.ShapeDtypeStruct((some, *x.shape[1:]), x.dtype))
  # Not zeros, of which XLA would write those of all layers first, and keep them.
  any_number = x[(0,) * x.ndim].astype(part.dtype)
  results = jnp.full((len(x), *part.shape[1:]), any_number)
  return lax.scan(add, results, jnp.arange(0, len(x), some))[0]


def sum_over_tiles(
  function: Callable[[jax.Array, jax.Array], ArrayTree],
  x: jax.Array,
  grad: jax.Array,
  tile: tuple[int, int],
  window: tuple[int, int],
) -> ArrayTree:
  """Sums `function(pixels, grad)` over tiles: strips of an image, or several images.

  Args:
    function: maps pixels (images, high, W, C) and the gradients of what their windows
      gave, (images, rows, w, K), to arrays.
    x: padded images (N, H, W, C).
    grad: the gradients of what all windows gave, (N, h, w, K).
    tile: images and rows of windows at once; they divide N and h. With several devices
      it is to be all of them, as a loop would gather what they share.
    window: its height, and how far the next row of windows is.
  """
  (images, rows), (height, stride) = tile, window
  strips = grad.shape[1] // rows
  if (images, strips) == (len(x), 1):
    return function(x, grad)

  def part(number):
    image, row = number // strips * images, number % strips * rows
    high = (rows - 1) * stride + height
    return function(
      lax.dynamic_slice(x, (image, row * stride, 0, 0), (images, high, *x.shape[2:])),
      lax.dynamic_slice(grad, (image, row, 0, 0), (images, rows, *grad.shape[2:])),
    )

  def add(total, number):
    return jax.tree.map(jnp.add, total, part(number)), None

  numbers = range(len(x) // images * strips)
  if not isinstance(x, jax.core.Tracer):  # as above
    return functools.reduce(lambda total, n: add(total, n)[0], numbers[1:], part(0))
  start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, 0))
  return lax.scan(add, start, jnp.asarray(numbers))[0]


def sum_over_images(
  function: Callable[[jax.Array, jax.Array], ArrayTree],
  x: jax.Array,
  grad: jax.Array,
  most: int,
) -> ArrayTree:
  """`sum_over_tiles` of whole images, at most so many at once; they need no padding."""
  rows = grad.shape[1]
  tile, window = (at_once(len(x), most), rows), (x.shape[1] - rows + 1, 1)
  return sum_over_tiles(function, x, grad, tile, window)


def divisor(number: int, most: int) -> int:
  """The largest of the number's divisors up to `most`, at least 1."""
  return max(n for n in range(1, max(1, min(most, number)) + 1) if number % n == 0)
