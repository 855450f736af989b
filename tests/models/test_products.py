"""Products of dense layers and their gradients, against NumPy's and jax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models import products


def test_outer_products_are_summed_over_all_rows():
  rng = np.random.default_rng(0)
  x, grad = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 5))
  with jax.enable_x64(True):
    given = products.outer(jnp.asarray(x), jnp.asarray(grad))
  np.testing.assert_allclose(given, np.einsum('abc,abk->ck', x, grad), rtol=1e-12)


@pytest.mark.parametrize('widths', [(8, 4), (4, 8)])
@pytest.mark.parametrize('devices', [1, 8])
def test_the_narrower_is_the_left_one_on_a_cpu(monkeypatch, widths, devices):
  """The other order takes up to 1.6 times as long. Of several it is as given."""
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  rng = np.random.default_rng(0)
  x, grad = (jnp.asarray(rng.normal(size=(64, n)), jnp.float32) for n in widths)
  step = jax.jit(lambda *a: products.outer(*a)).lower(x, grad).compile()
  np.testing.assert_allclose(step(x, grad), x.T @ grad, rtol=1e-5, atol=1e-5)
  (line,) = (line for line in step.as_text().splitlines() if ' dot(' in line)
  rows, columns = sorted(widths) if devices == 1 else widths
  assert f'f32[{rows},{columns}]' in line


def test_factors_as_they_lie(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  x, grad = jnp.ones((64, 8)), jnp.ones((64, 4))
  with products.as_they_lie():
    program = jax.jit(lambda *a: products.outer(*a)).lower(x, grad).compile().as_text()
  assert 'f32[8,4]' in next(line for line in program.splitlines() if ' dot(' in line)


def test_half_precision_is_summed_in_single():
  ones = jnp.ones((1000, 1), jnp.bfloat16)
  given = products.outer(ones, ones)
  assert given.dtype == jnp.float32 and given == 1000


def loss(multiply, x, kernels):
  """Of residual dense layers, whose inputs are sums of all that came before."""
  for kernel in kernels:
    x = x + jnp.tanh(multiply(x, kernel))
  return jnp.sum(x**2)


@pytest.mark.parametrize('shape', [(5,), (3, 5), (2, 3, 4, 5)])
def test_a_product_is_matmul_and_so_is_its_gradient(shape):
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    x, kernels = (
      jnp.asarray(rng.normal(size=shape)),
      jnp.asarray(rng.normal(size=(2, 5, 5))),
    )
    ours, theirs = (
      jax.value_and_grad(lambda *a, m=m: loss(m, *a), (0, 1))(x, kernels)
      for m in (products.product, jnp.matmul)
    )
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_its_gradient_is_not_of_transposed_copies():
  """A plain product's is. The day that XLA mends it, `product` may go."""
  x, kernels = jnp.ones((8, 64, 16)), jnp.ones((32, 16, 16))

  def traffic(multiply):
    step = jax.jit(jax.grad(lambda k: loss(multiply, x, k))).lower(kernels).compile()
    return step.cost_analysis()['bytes accessed']

  assert traffic(products.product) < 0.9 * traffic(jnp.matmul)
