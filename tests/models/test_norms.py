"""Norms and GELU against flax's and autodiff in float64, and what they remember."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models import norms

CASES = {
  'batch_norm': (
    norms.BatchNorm(False, epsilon=1e-3, momentum=0.8),
    nn.BatchNorm(False, epsilon=1e-3, momentum=0.8, use_fast_variance=False),
  ),
  'layer_norm': (
    norms.LayerNorm(epsilon=1e-3),
    nn.LayerNorm(epsilon=1e-3, use_fast_variance=False),
  ),
}


@pytest.fixture(params=CASES)
def pair(request):
  return CASES[request.param]


def arrays(dtype):
  """An input, scale and bias, and a gradient of the output."""
  rng = np.random.default_rng(0)
  x, grad = (jnp.asarray(rng.normal(1, 2, (4, 3, 5, 6)), dtype) for _ in range(2))
  scale, bias = (jnp.asarray(rng.normal(1, 1, 6)) for _ in range(2))
  return x, {'scale': scale, 'bias': bias}, grad


def pulled(norm, x, params, grad):
  """The output, the moving statistics and the gradients of input and parameters."""
  stats = dict.fromkeys(('mean', 'var'), jnp.ones(6, params['scale'].dtype))

  def apply(x, params):
    variables = {'params': params, 'batch_stats': stats}
    return norm.apply(variables, x, mutable=['batch_stats'])

  y, pull, updated = jax.vjp(apply, x, params, has_aux=True)
  return y, updated, pull(grad)


def test_norms_are_flax_and_autodiff_in_float64(pair):
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):  # flax mixes
    ours, theirs = (pulled(norm, *arrays(jnp.float64)) for norm in pair)
  chex.assert_trees_all_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_norms_of_half_precision_are_those_of_float32_rounded(pair):
  x, params, grad = arrays(jnp.bfloat16)
  half = pair[0].clone(dtype=jnp.bfloat16)
  ours, _, gradients = pulled(half, x, params, grad)
  assert ours.dtype == gradients[0].dtype == jnp.bfloat16
  wide = (array.astype(jnp.float32) for array in (x, grad))
  theirs, _, exact = pulled(pair[1], next(wide), params, next(wide))
  both = (jax.tree.leaves(found) for found in ((ours, gradients), (theirs, exact)))
  for a, b in zip(*both, strict=True):
    error = jnp.linalg.norm((a.astype(jnp.float32) - b).ravel())
    assert error < 4e-3 * jnp.linalg.norm(b.ravel())


def test_a_batch_norm_by_moving_statistics_is_flax():
  x, params, _ = arrays(jnp.float32)
  ours, theirs = CASES['batch_norm']
  stats = {'mean': jnp.arange(6.0), 'var': 1 + jnp.arange(6.0)}
  ours, theirs = (
    norm.clone(use_running_average=True).apply(
      {'params': params, 'batch_stats': stats}, x
    )
    for norm in (ours, theirs)
  )
  np.testing.assert_array_equal(ours, theirs)


def test_gelu_is_autodiffs_in_float64():
  with jax.enable_x64(True):
    x = jnp.linspace(-8, 8, 1001)
    ours, theirs = (
      jax.vjp(f, x) for f in (norms.gelu, lambda x: nn.gelu(x, approximate=False))
    )
    np.testing.assert_allclose(ours[0], theirs[0], 1e-12, 1e-14)
    np.testing.assert_allclose(ours[1](x)[0], theirs[1](x)[0], 1e-10, 1e-13)


@pytest.mark.parametrize('name', [*CASES, 'gelu'])
def test_the_gradients_keep_the_input_alone(name):
  x, params, _ = arrays(jnp.bfloat16)
  if name == 'gelu':
    _, pull = jax.vjp(norms.gelu, x)
  else:
    norm = CASES[name][0].clone(dtype=jnp.bfloat16)

    def apply(x):
      return norm.apply({'params': params}, x, mutable=['batch_stats'])[0]

    _, pull = jax.vjp(apply, x)
  kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape == x.shape]
  assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def test_a_batch_norm_far_from_zero_is_as_exact_as_flax():
  x, params, grad = arrays(jnp.float32)
  given = x + 30, params, grad
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):  # flax mixes
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), given)
    exact = jax.tree.leaves(pulled(CASES['batch_norm'][1], *wide))

  def error(norm):
    pairs = zip(jax.tree.leaves(pulled(norm, *given)), exact, strict=True)
    pairs = (map(np.asarray, pair) for pair in pairs)
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)

  ours, theirs = CASES['batch_norm']
  assert error(ours) < 2 * error(theirs.clone(use_fast_variance=True)) < 1e-3


def test_a_step_keeps_two_arrays_for_each_batch_norm_on_a_cpu():
  """What it normalises and what the next layer multiplies."""
  layers, x = 4, jnp.ones((1024, 16))
  norm = norms.BatchNorm(False)
  params = {'params': {'scale': jnp.ones(16), 'bias': jnp.zeros(16)}}

  def loss(kernels):
    y = x
    for kernel in kernels:
      y = nn.relu(norm.apply(params, y @ kernel, mutable=['batch_stats'])[0])
    return jnp.sum(y**2)

  step = jax.jit(jax.grad(loss)).lower(jnp.ones((layers, 16, 16))).compile()
  kept = step.memory_analysis().temp_size_in_bytes / x.nbytes
  assert kept < 2.5 * layers
