"""Sums of products, and what they are kept in."""

import jax
import jax.numpy as jnp
from jax import lax


def outer(x: jax.Array, grad: jax.Array) -> jax.Array:
  """Sums the outer products of all rows: (..., C) and (..., K) to (C, K).

  Written so, not as autodiff has it, XLA copies neither into another layout.
  """
  return lax.dot_general(
    x.reshape(-1, x.shape[-1]),
    grad.reshape(-1, grad.shape[-1]),
    (((0,), (0,)), ((), ())),
    preferred_element_type=wide(grad.dtype),
  )


def wide(dtype: jnp.dtype) -> jnp.dtype:
  """What sums of many products are kept in: float32, or what is wider."""
  return dtype if dtype.itemsize > 2 else jnp.dtype(jnp.float32)
