"""Computations that XLA does not fuse with what is around them."""

from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def unfused(function: Callable) -> Callable:
  """The function as a call that XLA leaves one, so that what it takes is in memory.

  XLA's CPU backend computes a cheap array anew wherever it is read, for each of fifteen
  slices of it, and in the order in which it is read, which can be one that cannot be
  vectorised. An optimization barrier is gone before XLA fuses.
  With several devices it is the function itself: calls are not partitioned.
  """
  if jax.device_count() > 1:
    return function

  def call(*arguments):
    with set_xla_metadata(inlineable='false'):
      return jax.jit(function)(*arguments)

  return call
