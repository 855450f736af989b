import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import afn
from tljax.errors import InputError


@pytest.mark.parametrize('delta', [1.0, 0.3])
def test_norm_growth(check_slow, delta):
  """Finite differences of the loss with the old norms held."""
  features = np.random.default_rng(0).normal(size=(4, 3))
  goals = [np.sqrt(sum(row**2)) + delta for row in features]

  def slow(features):
    norms = [np.sqrt(sum(row**2)) for row in features]
    return np.mean([(n - goal) ** 2 for n, goal in zip(norms, goals, strict=True)])

  check_slow(lambda x: afn.norm_growth(x, delta), slow, features)


def test_norm_gap(check_slow):
  features = np.random.default_rng(0).normal(size=(4, 3))

  def slow(features):
    return (sum(np.sqrt(sum(row**2)) for row in features) / 4 - 25) ** 2

  check_slow(lambda x: afn.norm_gap(x, 25.0), slow, features)


def test_the_published_loss(check_reference):
  check_reference('afn_delta=1', afn.norm_growth, ['feature_t'])


def test_features_that_are_zero_take_no_gradient():
  grad = jax.grad(afn.norm_growth)(jnp.zeros((2, 3)))
  np.testing.assert_array_equal(grad, np.zeros((2, 3)))


def test_the_hard_form_pulls_mean_norms_to_the_radius(check_step):
  def term(source, target):
    means = [
      jnp.mean(jnp.sqrt(jnp.sum(outputs['features'] ** 2, 1)))
      for outputs in (source, target)
    ]
    return 0.05 * sum((mean - 25) ** 2 for mean in means)

  check_step(lambda *args: afn.method(*args, radius=25.0), term)


def test_a_radius_is_a_norm(points):
  with pytest.raises(InputError, match='radius -1 is no norm'):
    afn.method(points, optax.sgd(0.1), radius=-1)


@pytest.mark.parametrize(
  ('options', 'strength', 'entropy'),
  [({}, 0.05, 0.0), ({'strength': 2.0, 'entropy': 0.1}, 2.0, 0.1)],
)
def test_one_step(check_step, options, strength, entropy):
  def term(source, target):
    value = 0.0
    for outputs in (source, target):
      norms = jnp.sqrt(jnp.sum(outputs['features'] ** 2, 1))
      value += strength * jnp.mean((norms - jax.lax.stop_gradient(norms) - 1) ** 2)
    odds = jnp.exp(target['logits'])
    p = odds / jnp.sum(odds, 1, keepdims=True)
    return value - entropy * jnp.sum(p * jnp.log(p)) / len(p)

  check_step(lambda *args: afn.method(*args, **options), term)
