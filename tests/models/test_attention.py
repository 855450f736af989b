"""Attention against its formula; on a GPU that is cuDNN's, in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models.attention import attend


def formula(query, key, value):
  """Of one head after the other, all weights written down."""
  weights = jnp.einsum('nthd,nshd->nhts', query, key) * query.shape[-1] ** -0.5
  return jnp.einsum('nhts,nshd->nthd', jax.nn.softmax(weights), value)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('tokens', [6, 17])
def test_attention_and_its_gradients_are_the_formulas(tokens, dtype):
  rng = np.random.default_rng(0)
  *given, grad = jnp.asarray(rng.normal(0, 1, (4, 3, tokens, 2, 16)), dtype)
  with jax.numpy_dtype_promotion('standard'):  # JAX's own mixes
    ours, pull = jax.vjp(attend, *given)
    found = ours, *pull(grad)
  assert ours.dtype == dtype
  with jax.default_matmul_precision('highest'):
    wide = [x.astype(jnp.float32) for x in given]
    wanted, exact = jax.vjp(formula, *wide)
    exact = exact(grad.astype(jnp.float32))
  limit = 1e-2 if dtype == jnp.bfloat16 else 1e-5
  if dtype == jnp.float32 and jax.default_backend() == 'gpu':
    limit = 2e-3  # products of three bfloat16 or one TF32
  for a, b in zip(found, (wanted, *exact), strict=True):
    error = jnp.linalg.norm((a.astype(jnp.float32) - b).ravel())
    assert error < limit * jnp.linalg.norm(b.ravel())
