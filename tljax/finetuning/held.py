"""What frozen kernels are kept in: bfloat16 or int8, a half or a quarter of float32.

A layer makes them float32 again when it computes, so that it computes as it did, and a
gradient goes through it to what trains below; a backward pass that does so, such as
LoRA's, keeps them in float32 and saves nothing. Biases, norms and batch statistics, few
of a network's numbers, stay float32. `models.quantized` computes in int8 too.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from tljax.errors import InputError
from tljax.models.unfused import on_cpu_alone, unfused

DTYPES = ('float32', 'bfloat16', 'int8')


@flax.struct.dataclass
class Int8:
  """A kernel as values times scale.

  Attributes:
    values: (..., K) int8 in [-127, 127].
    scale: (1, ..., 1, K) float32, of each output: its largest weight's size over 127
      (Jacob et al., 2018).
  """

  values: jax.Array
  scale: jax.Array


def check(dtype: str) -> None:
  """Raises InputError where nothing can be held in the dtype."""
  if dtype not in DTYPES:
    raise InputError(f'nothing is held in {dtype!r}; choose one of {", ".join(DTYPES)}')


def is_held(leaf: Any) -> bool:
  """Whether it is a kernel in int8: of a tree of parameters a leaf, not a branch."""
  return isinstance(leaf, Int8)


def hold(kernel: jax.Array | Int8, dtype: str) -> jax.Array | Int8:
  """Returns the float kernel (..., K) in the dtype; of one in int8, itself."""
  if is_held(kernel) or dtype == 'float32':
    return kernel
  if dtype == 'bfloat16':
    return jnp.asarray(kernel, jnp.bfloat16)
  kernel = jnp.asarray(kernel, jnp.float32)
  largest = jnp.abs(kernel).max(range(kernel.ndim - 1), keepdims=True)
  scale = jnp.where(largest > 0, largest / 127, 1)
  return Int8(jnp.round(kernel / scale).astype(jnp.int8), scale)


def widen_at_layers(next_call, args, kwargs, context):
  """A linen interceptor: of what is held, a layer alone is in float32 at a time."""
  module = context.module
  params = module.variables.get('params', {})
  kernel = params.get('kernel')
  is_narrow = is_held(kernel) or getattr(kernel, 'dtype', None) == jnp.bfloat16
  if context.method_name != '__call__' or not is_narrow:
    return next_call(*args, **kwargs)
  params = {**params, 'kernel': _widen_after(kernel, args[0])}
  return module.clone(parent=None, name=None).apply({'params': params}, *args, **kwargs)


def _widen_after(kernel, x):
  """The kernel in float32 once there is x: XLA's CPU backend widens all at first."""
  if not on_cpu_alone():
    return release(kernel)

  @unfused  # A call waits for its operands; a barrier would be gone by then.
  def widen(kernel, one):
    return release(lax.optimization_barrier((kernel, one))[0])

  return widen(kernel, lax.stop_gradient(x[(0,) * x.ndim]))


def release(tree: Any) -> Any:
  """Returns the tree with what is held in float32 again, such as for export."""

  def widen(leaf):
    if is_held(leaf):
      return leaf.values.astype(leaf.scale.dtype) * leaf.scale
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

  return jax.tree.map(widen, tree, is_leaf=is_held)
