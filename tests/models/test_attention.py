"""Attention against its formula; on a GPU that is cuDNN's, in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models.attention import attend


def formula(query, key, value, bias=0.0):
  """Of one head after the other, all weights written down."""
  weights = jnp.einsum('nthd,nshd->nhts', query, key) * query.shape[-1] ** -0.5 + bias
  return jnp.einsum('nhts,nshd->nthd', jax.nn.softmax(weights), value)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('tokens', [6, 17])
@pytest.mark.parametrize('biased', [None, (1, 2), (3, 1)])
def test_attention_and_its_gradients_are_the_formulas(biased, tokens, dtype):
  rng = np.random.default_rng(0)
  *given, grad = jnp.asarray(rng.normal(0, 1, (4, 3, tokens, 2, 16)), dtype)
  if biased:
    given.append(jnp.asarray(rng.normal(0, 2, (*biased, tokens, tokens)), dtype))
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


def test_logits_of_any_size_have_weights():
  """Their exponentials would overflow, or all be zero."""
  query, key, value = jnp.asarray(
    np.random.default_rng(0).normal(0, 1, (3, 2, 5, 2, 8)), jnp.float32
  )
  for shift in (-1e4, 1e4):
    bias = jnp.full((1, 1, 5, 5), shift)
    np.testing.assert_allclose(
      attend(query, key, value, bias), formula(query, key, value), atol=2e-3
    )


def test_second_derivatives_are_the_formulas():
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    given = jnp.asarray(rng.normal(size=(3, 2, 5, 2, 4)))
    ours, theirs = (
      jax.hessian(lambda x, f=f: jnp.sum(f(*x) ** 2))(given) for f in (attend, formula)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_stack_of_heads_and_one_argument_alone():
  """`vmap` with a bias of each and of all, and a gradient of the values alone."""
  rng = np.random.default_rng(0)
  given = jnp.asarray(rng.normal(size=(3, 4, 2, 5, 2, 8)), jnp.float32)
  biases = jnp.asarray(rng.normal(size=(4, 1, 2, 5, 5)), jnp.float32)
  for bias, axis in ((biases, 0), (biases[0], None)):
    ours, theirs = (
      jax.vmap(f, (0, 0, 0, axis))(*given, bias) for f in (attend, formula)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  ours, theirs = (
    jax.grad(lambda v, f=f: jnp.sum(f(given[0, 0], given[1, 0], v) ** 2))(given[2, 0])
    for f in (attend, formula)
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
