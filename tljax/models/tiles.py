"""Images some at a time, so that what is made of them stays in a CPU's cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
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

  def add(results, start):
    part = function(lax.dynamic_slice_in_dim(x, start, some))
    return lax.dynamic_update_slice_in_dim(results, part, start, 0), None

  part = jax.eval_shape(function, jax.ShapeDtypeStruct((some, *x.shape[1:]), x.dtype))
  # Not zeros, of which XLA would write those of all layers first, and keep them.
  any_number = x[(0,) * x.ndim].astype(part.dtype)
  results = jnp.full((len(x), *part.shape[1:]), any_number)
  return lax.scan(add, results, jnp.arange(0, len(x), some))[0]


def divisor(number: int, most: int) -> int:
  """The largest of the number's divisors up to `most`, at least 1."""
  return max(n for n in range(1, max(1, most) + 1) if number % n == 0)
