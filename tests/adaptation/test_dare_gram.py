import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.adaptation import dare_gram


@pytest.mark.parametrize(
  ('options', 'weights', 'threshold'),
  [
    ({}, (0.05, 0.001), 0.9),
    (
      {'strength': 3.0, 'angle': 0.2, 'scale': 0.1, 'threshold': 0.99},
      (0.6, 0.3),
      0.99,
    ),
  ],
)
def test_one_step(check_step, options, weights, threshold):
  def term(source, target):
    found, counts = [], []
    for outputs in (source, target):
      x = jnp.concatenate([jnp.ones((8, 1)), outputs['features']], 1)
      values, vectors = (a[..., ::-1] for a in jnp.linalg.eigh(x.T @ x))
      shares = np.cumsum(np.asarray(jax.lax.stop_gradient(values)))
      shares = shares / shares[-1]
      counts.append(np.sum(shares <= max(threshold, shares[1])) - 1)
      found.append((values, vectors))
    k = int(max(counts))
    assert 0 < k < 4  # which float32 can invert
    spectra = [values[:k] for values, _ in found]
    a, b = (u[:, :k] / s[None, :k] @ u[:, :k].T for s, u in found)
    lengths = jnp.linalg.norm(a, axis=0) * jnp.linalg.norm(b, axis=0)
    angles = jnp.mean(1 - jnp.sum(a * b, 0) / lengths)
    spread = jnp.linalg.norm(spectra[0] - spectra[1]) / k
    return weights[0] * angles + weights[1] * spread

  check_step(lambda *args: dare_gram.method(*args, **options), term)
