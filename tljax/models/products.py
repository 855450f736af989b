"""Sums of products, and what they are kept in."""

import contextvars
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tljax.models.unfused import on_cpu_alone, once, switched_on

_as_they_lie = contextvars.ContextVar('as_they_lie', default=False)


def product(
  x: jax.Array, kernel: jax.Array, _=None, precision: lax.PrecisionLike = None
) -> jax.Array:
  """The product of (..., D) and (D, K) as one of two matrices.

  Of more axes than two, XLA's CPU backend would make the kernel's gradient from a
  transposed copy, whose every number is computed anew from what x came from. A step of
  LoRA on a ViT took 1.6 times as long so. Where several products are one by `vmap`,
  autodiff's gradient of the kernels is transposed too; `outer` has it as they lie. A
  dense layer's `dot_general`, whose dimension numbers say what is known.
  """
  y = _product(x.reshape(-1, x.shape[-1]), kernel, precision)
  return y.reshape(*x.shape[:-1], kernel.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(rows, kernel, precision):
  return lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), precision)


def _forward(rows, kernel, precision):
  return _product(rows, kernel, precision), (rows, kernel)


def _backward(precision, residuals, grad):
  rows, kernel = residuals
  back = lax.dot_general(grad, kernel, (((1,), (1,)), ((), ())), precision)
  return back, outer(rows, grad, precision).astype(kernel.dtype)


_product.defvjp(_forward, _backward)


class Dense(nn.Dense):
  """flax's dense layer by `product`; derivatives are by reverse mode."""

  dot_general: Callable = product


def outer(
  x: jax.Array, grad: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
  """Sums the outer products of all rows: (..., C) and (..., K) to (C, K).

  Written so, not as autodiff has it, XLA copies neither into another layout. On one
  CPU the narrower is the left one, as the other order can take 1.6 times as long;
  `once` keeps XLA from turning it round.
  """
  turned = x.shape[-1] > grad.shape[-1] and on_cpu_alone() and not _as_they_lie.get()
  left, right = (grad, x) if turned else (x, grad)
  sums = lax.dot_general(
    left.reshape(-1, left.shape[-1]),
    right.reshape(-1, right.shape[-1]),
    (((0,), (0,)), ((), ())),
    precision,
    preferred_element_type=wide(grad.dtype),
  )
  return once(sums).T if turned else sums


def as_they_lie():
  """What is traced within leaves `outer`'s factors in their order.

  So it is quicker for kernels that `vmap` stacks: to turn back what it sums of them
  takes longer than the better order gains.
  """
  return switched_on(_as_they_lie)


def wide(dtype: jnp.dtype) -> jnp.dtype:
  """What sums of many products are kept in: float32, or what is wider."""
  return dtype if dtype.itemsize > 2 else jnp.dtype(jnp.float32)
