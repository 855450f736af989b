"""Computations that XLA does not fuse with what is around them."""

from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def unfused(function: Callable) -> Callable:
  """The function as a call that XLA leaves one, so that what it takes is in memory.

  XLA's CPU backend computes what is cheap anew wherever it is read, such as for each of
  fifteen slices of it, and in the order in which it is read, which may be one that
  cannot be vectorised. An optimization barrier is gone before XLA fuses.
  With several devices, and elsewhere, it is the function itself: a call is not
  partitioned.
  """
  if jax.device_count() > 1 or jax.default_backend() != 'cpu':
    return function

  def call(*arguments):
    with set_xla_metadata(inlineable='false'):
      return jax.jit(function)(*arguments)

  return call


def once(x: jax.Array) -> jax.Array:
  """The array, computed once however often it is read."""
  return unfused(lambda x: x)(x)
