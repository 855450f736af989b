import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.errors import InputError
from tljax.finetuning import bss


@pytest.mark.parametrize('k', [1, 3])
def test_the_published_values(check_reference, k):
  check_reference(f'bss_k={k}', lambda x: bss.spectral_shrinkage(x, k), ['feature_s'])


@pytest.mark.parametrize('shape', [(4, 3), (3, 5)])
@pytest.mark.parametrize('k', [1, 2])
def test_it_is_the_smallest_eigenvalues_of_the_gram_matrix(check_slow, shape, k):
  def slow(features):
    wide = features if shape[0] < shape[1] else features.T
    return np.linalg.eigvalsh(wide @ wide.T)[:k].sum()

  features = np.random.default_rng(0).normal(size=shape)
  check_slow(lambda x: bss.spectral_shrinkage(x, k), slow, features)


def test_all_singular_values_make_the_squared_norm_and_a_flat_direction_nothing():
  features = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
  np.testing.assert_allclose(
    bss.spectral_shrinkage(features, 4), np.sum(features**2), rtol=1e-5
  )
  features[:, 2] = 0
  np.testing.assert_allclose(bss.spectral_shrinkage(features, 1), 0, atol=1e-6)


def test_features_in_bfloat16():
  features = jnp.bfloat16(np.random.default_rng(0).normal(size=(6, 4)))
  wanted = np.linalg.svd(np.float64(features), compute_uv=False)[-1] ** 2
  value, grad = jax.value_and_grad(bss.spectral_shrinkage)(features)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  assert grad.dtype == jnp.bfloat16 and np.isfinite(np.float32(grad)).all()


@pytest.mark.parametrize('k', [0, -1])
def test_to_shrink_none_is_refused(k):
  with pytest.raises(InputError, match=f'k={k} singular values; choose at least 1'):
    bss.spectral_shrinkage(np.eye(3, dtype=np.float32), k)


def test_one_step(check_step):
  def penalty(params, start, outputs, images):
    del params, start, images
    return 0.3 * bss.spectral_shrinkage(outputs['features'], 2)

  check_step(lambda *args: bss.method(*args, strength=0.3, k=2), penalty)
