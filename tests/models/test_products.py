"""Sums of outer products, against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np

from tljax.models import products


def test_outer_products_are_summed_over_all_rows():
  rng = np.random.default_rng(0)
  x, grad = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 5))
  with jax.enable_x64(True):
    given = products.outer(jnp.asarray(x), jnp.asarray(grad))
  np.testing.assert_allclose(given, np.einsum('abc,abk->ck', x, grad), rtol=1e-12)


def test_half_precision_is_summed_in_single():
  ones = jnp.ones((1000, 1), jnp.bfloat16)
  given = products.outer(ones, ones)
  assert given.dtype == jnp.float32 and given == 1000
