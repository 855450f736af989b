"""Attention that is quick on a CPU and, where a GPU can, keeps no weights of pairs."""

import jax
import jax.numpy as jnp
from jax import lax


def attend(
  query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
  """Scaled dot-product attention of all tokens to all (Vaswani et al., 2017, eq. 1).

  Without a bias, in half precision on NVIDIA's GPUs from Ampere on, it is cuDNN's fused
  kernel, which took a third of the time of XLA's products and softmax. On a CPU, in
  float32 and wider, a head's numbers are put together first, which takes less than half
  the time. All else is XLA's.

  Args:
    query, key, value: (N, T, heads, D).
    bias: what to add to the logits, (N or 1, heads or 1, T, T) of their dtype.

  Returns:
    (N, T, heads, D).
  """
  if jax.default_backend() == 'cpu' and query.dtype.itemsize >= 4:
    return _by_heads(query, key, value, bias)
  if bias is not None or not _is_fused(query):
    return jax.nn.dot_product_attention(query, key, value, bias)
  count, tokens = query.shape[:2]
  # JAX refuses cuDNN's gradients for odd numbers of tokens.
  pads = [(0, 0), (0, tokens % 2), (0, 0), (0, 0)]
  lengths = jnp.full(count, tokens, jnp.int32)
  y = jax.nn.dot_product_attention(
    *(jnp.pad(x, pads) for x in (query, key, value)),
    query_seq_lengths=lengths,
    key_value_seq_lengths=lengths,
    implementation='cudnn',
  )
  return y[:, :tokens]


def _by_heads(query, key, value, bias):
  heads = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
  # Else XLA multiplies them as they lie, slowly.
  query, key, value = lax.optimization_barrier(tuple(heads))
  logits = query @ key.mT
  if bias is not None:
    logits = logits + bias
  weights = jnp.exp(logits - lax.stop_gradient(logits).max(-1, keepdims=True))
  # Their sum divides what they give, which are fewer numbers.
  return (weights @ value / weights.sum(-1, keepdims=True)).swapaxes(1, 2)


def _is_fused(query):
  """Whether cuDNN has attention for this device, dtype and width of a head."""
  if jax.default_backend() != 'gpu' or query.dtype not in (jnp.bfloat16, jnp.float16):
    return False
  device, width = jax.devices()[0], query.shape[-1]
  if 'cuda' not in device.client.platform_version:
    return False
  return float(device.compute_capability) >= 8.0 and width % 8 == 0 and width <= 128
