import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.measures import subspaces

RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.normal(size=(4, 10)), RNG.normal(0.5, 2, size=(4, 10))


def slow_rsd(source, target, count=4):
  s, t = (
    np.linalg.svd(x.T, full_matrices=False)[0][:, :count] for x in (source, target)
  )
  p, cosines, qt = np.linalg.svd(s.T @ t)
  angles = np.arccos(cosines)
  return np.sum(np.sin(angles)) + 0.3 * np.sqrt(np.sum((abs(p) - abs(qt.T)) ** 2))


@pytest.mark.parametrize('width', [10, 5])
def test_rsd(check_slow, width):
  """Also of fewer features, of which half as many directions count.

  The published library's code gave NaN alone (`rsd/*` of reference/losses.npz), so this
  slow version is the reference.
  """
  check_slow(
    lambda s, t: subspaces.rsd(s, t, mismatch=0.3),
    lambda s, t: slow_rsd(s, t, min(4, width // 2)),
    SOURCE[:, :width],
    TARGET[:, :width],
  )


def test_rsd_sees_the_span_alone():
  mixed = RNG.normal(size=(4, 4)) @ SOURCE
  assert subspaces.rsd(SOURCE, mixed, mismatch=0.0) < 1e-5
  apart = np.eye(10)[:4], np.eye(10)[4:8]
  np.testing.assert_allclose(subspaces.rsd(*apart, mismatch=0.0), 4, rtol=1e-6)


def slow_dare_gram(source, target, threshold):
  """As the authors': pinv cuts at the eigenvalue that the shares point to."""
  grams, spectra, indices = [], [], []
  for x in (source, target):
    x = np.concatenate([np.ones((len(x), 1)), x], 1)
    grams.append(x.T @ x)
    spectra.append(np.linalg.svd(grams[-1])[1])
    shares = np.cumsum(spectra[-1]) / np.sum(spectra[-1])
    limit = shares[1] if shares[1] > threshold else threshold
    indices.append(np.argwhere(shares <= limit)[-1])
  k = max(indices)[0]
  inverses = [
    np.linalg.pinv(g, rcond=s[k] / s[0] * (1 + 1e-9))
    for g, s in zip(grams, spectra, strict=True)
  ]
  cosines = [
    a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    for a, b in zip(*(x.T for x in inverses), strict=True)
  ]
  spread = np.linalg.norm(spectra[0][:k] - spectra[1][:k]) / k
  return 0.7 * np.mean(1 - np.array(cosines)) + 0.2 * spread


@pytest.mark.parametrize(('threshold', 'width'), [(0.1, 10), (0.9, 10), (0.95, 3)])
def test_dare_gram(check_slow, threshold, width):
  """Of one direction, of several, and of fewer features than examples."""
  check_slow(
    lambda s, t: subspaces.dare_gram(s, t, angle=0.7, scale=0.2, threshold=threshold),
    lambda s, t: slow_dare_gram(s, t, threshold),
    SOURCE[:, :width],
    TARGET[:, :width],
  )


def by_jaxs_svd(x):
  u, s, vt = jnp.linalg.svd(x, full_matrices=False)
  return u, s, vt.T


def test_the_gradient_in_float32_is_that_of_a_batch(monkeypatch):
  """Of 36 rectified examples, whose singular values are near each other; in float64 by
  JAX' own SVD, which fades nothing.
  """
  rng = np.random.default_rng(0)
  pair = [np.maximum(rng.normal(m, 1 + m, size=(36, 256)), 0) for m in (0, 0.3)]
  found = jax.grad(subspaces.rsd, (0, 1))(*map(jnp.float32, pair))
  monkeypatch.setattr(subspaces, 'thin_svd', by_jaxs_svd)
  with jax.enable_x64(True):
    wanted = jax.grad(subspaces.rsd, (0, 1))(*pair)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=5e-3 * np.abs(b).max())


@pytest.mark.parametrize('loss', [subspaces.rsd, subspaces.dare_gram])
def test_the_gradient_is_finite_where_features_are_degenerate(loss):
  """Rectified, of lower rank than the batch, the same in both domains, or nothing."""
  some = np.float32(np.maximum(SOURCE, 0))
  low = np.concatenate([some[:2], some[:2]])
  for pair in ((some, some), (low, some), (low, 2 * low), (0 * some, some)):
    value, grads = jax.value_and_grad(loss, (0, 1))(*map(jnp.asarray, pair))
    assert all(np.isfinite(x).all() for x in (value, *grads))


def test_thin_svd_is_one_and_its_gradient_that_of_jax():
  x = jnp.asarray(SOURCE[:3, :5], jnp.float32)
  u, s, v = subspaces.thin_svd(x)
  np.testing.assert_allclose(u * s[None] @ v.T, x, atol=1e-5)

  def of_vectors(svd):
    return lambda x: jnp.sum(jnp.abs(svd(x)[0])) + jnp.sum(jnp.abs(svd(x)[2]) ** 3)

  for a in (x, x.T):
    wanted = jax.grad(of_vectors(by_jaxs_svd))(a)
    np.testing.assert_allclose(
      jax.grad(of_vectors(subspaces.thin_svd))(a), wanted, rtol=1e-3, atol=1e-5
    )
