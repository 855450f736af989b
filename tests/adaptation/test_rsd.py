import jax.numpy as jnp
import pytest

from tljax.adaptation import rsd
from tljax.measures import subspaces


@pytest.mark.parametrize(
  ('options', 'strength', 'mismatch'),
  [({}, 0.001, 0.1), ({'strength': 0.05, 'mismatch': 0.4}, 0.05, 0.4)],
)
def test_one_step(check_step, options, strength, mismatch):
  """Three of six directions; the SVD's gradient has tests of its own."""

  def term(source, target):
    bases = [subspaces.thin_svd(x['features'].T)[0][:, :3] for x in (source, target)]
    shared = bases[0].T @ bases[1]
    p, _, q = subspaces.thin_svd(shared)
    sines = jnp.linalg.svd(bases[1] - bases[0] @ shared, full_matrices=False)[1]
    gap = jnp.sqrt(jnp.sum((jnp.abs(p) - jnp.abs(q)) ** 2))
    return strength * (jnp.sum(sines) + mismatch * gap)

  check_step(lambda *args: rsd.method(*args, **options), term)
