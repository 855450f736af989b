import jax.numpy as jnp
import numpy as np
import pytest

from tljax.adaptation import bnm


def slow(logits):
  """By the eigenvalues of the Gram matrix."""
  odds = np.exp(logits)
  p = odds / odds.sum(1, keepdims=True)
  return np.sum(np.sqrt(np.linalg.eigvalsh(p.T @ p))) / len(p)


def test_nuclear_norm(check_slow):
  check_slow(bnm.nuclear_norm, slow, np.random.default_rng(0).normal(size=(5, 3)))


def test_limits():
  """Certain and diverse predictions have the largest norm, alike ones the least."""
  diverse = 100 * jnp.tile(jnp.eye(3), (2, 1))
  np.testing.assert_allclose(bnm.nuclear_norm(diverse), 3 * 2**0.5 / 6, rtol=1e-5)
  np.testing.assert_allclose(
    bnm.nuclear_norm(jnp.zeros((6, 3))), (6 / 3) ** 0.5 / 6, rtol=1e-5
  )


@pytest.mark.parametrize(('options', 'strength'), [({}, 1.0), ({'strength': 0.5}, 0.5)])
def test_one_step(check_step, options, strength):
  def term(source, target):
    del source
    odds = jnp.exp(target['logits'])
    p = odds / jnp.sum(odds, 1, keepdims=True)
    return -strength * jnp.sum(jnp.sqrt(jnp.linalg.eigvalsh(p.T @ p))) / len(p)

  check_step(lambda *args: bnm.method(*args, **options), term)
