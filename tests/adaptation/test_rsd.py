import jax.numpy as jnp
import pytest

from tljax.adaptation import rsd


@pytest.mark.parametrize(
  ('options', 'strength', 'mismatch'),
  [({}, 0.001, 0.01), ({'strength': 0.05, 'mismatch': 0.4}, 0.05, 0.4)],
)
def test_one_step(check_step, options, strength, mismatch):
  """Three of six directions, by JAX's own gradients."""

  def term(source, target):
    bases = [
      jnp.linalg.svd(x['features'].T, full_matrices=False)[0][:, :3]
      for x in (source, target)
    ]
    shared = bases[0].T @ bases[1]
    p, _, qt = jnp.linalg.svd(shared)
    sines = jnp.linalg.svd(bases[1] - bases[0] @ shared, full_matrices=False)[1]
    gap = jnp.sqrt(jnp.sum((jnp.abs(p) - jnp.abs(qt.T)) ** 2))
    return strength * (jnp.sum(sines) + mismatch * gap)

  check_step(lambda *args: rsd.method(*args, **options), term)
