import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import losses
from tljax.adaptation import cst

RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3))
LABELS, LOGITS = np.array([0, 1, 2, 1, 0]), RNG.normal(size=(4, 3))


@pytest.mark.parametrize('ridge', [1e-3, 0.3])
@pytest.mark.parametrize('count', [2, 4])
def test_cycle_loss(check_slow, ridge, count):
  """The regression from its normal equations, in the weights of the features."""
  logits = LOGITS[:count]

  def slow(source, target):
    s, t = (x / np.sqrt(np.sum(x**2, 1, keepdims=True)) for x in (source, target))
    guesses = np.eye(3)[logits.argmax(1)] - 1 / 3
    weights = np.linalg.solve(t.T @ t + ridge * np.eye(3), t.T @ guesses)
    return np.mean((s @ weights - (np.eye(3)[LABELS] - 1 / 3)) ** 2)

  check_slow(
    lambda s, t: cst.cycle_loss(s, jnp.asarray(LABELS), t, jnp.asarray(logits), ridge),
    slow,
    SOURCE,
    TARGET[:count],
  )


def test_the_cycle_closes_where_the_domains_are_one():
  features = jnp.eye(3)[jnp.array([0, 1, 2, 2])]
  labels = jnp.array([1, 0, 2, 2])
  right = cst.cycle_loss(features, labels, features, 9 * jnp.eye(3)[labels])
  wrong = cst.cycle_loss(features, labels, features, 9 * jnp.eye(3)[(labels + 1) % 3])
  np.testing.assert_allclose(right, 0, atol=1e-5)
  assert wrong > 0.3


@pytest.mark.parametrize('index', [1.9, 2.0, 1.2])
def test_tsallis_entropy(check_slow, index):
  def slow(logits):
    rows = [np.exp(z) / np.sum(np.exp(z)) for z in logits]
    return sum((1 - sum(p**index for p in row)) / (index - 1) for row in rows)

  check_slow(lambda z: jnp.sum(cst.tsallis_entropy(z, index)), slow, LOGITS)


def test_tsallis_entropy_is_shannons_in_the_limit():
  logits = jnp.float32(LOGITS)
  got = cst.tsallis_entropy(logits, 1.001)
  np.testing.assert_allclose(got, losses.entropy(logits), rtol=5e-3)


def test_one_step(check_step, points_batch):
  labels = points_batch['source']['label']

  def term(source, target):
    features = source['features'], target['features']
    s, t = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in features)
    guesses = (
      np.eye(3, dtype=np.float32)[jax.lax.stop_gradient(target['logits']).argmax(1)]
      - 1 / 3
    )
    solved = jnp.linalg.inv(t @ t.T + 0.1 * jnp.eye(8)) @ guesses
    errors = s @ t.T @ solved - np.eye(3, dtype=np.float32)[labels] + 1 / 3
    p = jnp.exp(target['logits'])
    p = p / jnp.sum(p, 1, keepdims=True)
    tsallis = (1 - jnp.sum(p**1.5, 1)) / 0.5
    return 0.7 * (jnp.mean(errors**2) + 0.3 * jnp.mean(tsallis))

  def build(model, optimizer):
    return cst.method(model, optimizer, strength=0.7, entropy=0.3, index=1.5, ridge=0.1)

  check_step(build, term)


def test_features_of_zeros_have_a_finite_gradient():
  def loss(x):
    return cst.cycle_loss(x, jnp.asarray(LABELS), x[:4], jnp.asarray(LOGITS))

  grad = jax.grad(loss)(jnp.zeros((5, 3)))
  assert np.all(np.isfinite(grad))
