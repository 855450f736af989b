"""Computations that XLA does not fuse with what is around them."""

from collections.abc import Callable

import jax
from jax import lax
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

  @jax.jit
  def inlined(*arguments):
    with set_xla_metadata(inlineable=None):  # calls within, such as jnp.where's
      return function(*arguments)

  def call(*arguments):
    with set_xla_metadata(inlineable='false'):
      return inlined(*arguments)

  return call


def once(x: jax.Array) -> jax.Array:
  """The array, computed once however often a program reads it."""
  # An equation, as what a call merely gives back is taken past it by autodiff.
  return unfused(lax.optimization_barrier)(x) if isinstance(x, jax.core.Tracer) else x
