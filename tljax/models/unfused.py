"""Computations that XLA does not fuse with what is around them."""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# Set, it leaves to XLA what is written otherwise for a CPU's speed: `convolution`'s
# products, calls, and factors in another order.
BY_XLA = 'TLJAX_XLA_CONVOLUTIONS' in os.environ


def unfused(function: Callable) -> Callable:
  """The function as a call that XLA leaves one, so that what it takes is in memory.

  XLA's CPU backend computes what is cheap anew wherever it is read, such as for each of
  fifteen slices of it, and in the order in which it is read, which may be one that
  cannot be vectorised. An optimization barrier stops YNNPACK alone: it is gone before
  XLA fuses loops.
  With several devices, elsewhere, and where nothing is traced, it is the function
  itself: a call is not partitioned.
  """

  @jax.jit
  def inlined(*arguments):
    # Calls within, such as jnp.where's, are to be inlined, batched and derived too.
    with set_xla_metadata(inlineable='true'):
      return function(*arguments)

  def call(*arguments):
    if not (on_cpu_alone() and _is_traced(arguments)):
      return function(*arguments)
    with set_xla_metadata(inlineable='false'):
      return inlined(*arguments)

  return call


def once(x: jax.Array) -> jax.Array:
  """The array, computed once however often a program reads it."""
  # An equation, as what a call merely gives back is taken past it by autodiff.
  return unfused(lax.optimization_barrier)(x) if on_cpu_alone() else x


def on_cpu_alone() -> bool:
  """Whether there is one device, a CPU, on which a call stays one, and may."""
  return not BY_XLA and jax.device_count() == 1 and jax.default_backend() == 'cpu'


@contextlib.contextmanager
def switched_on(variable: contextvars.ContextVar) -> Iterator[None]:
  """A context variable is True for what is traced within."""
  token = variable.set(True)
  try:
    yield
  finally:
    variable.reset(token)


def _is_traced(arguments):
  return any(isinstance(x, jax.core.Tracer) for x in arguments)
