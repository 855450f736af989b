import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss
from sklearn.utils import compute_class_weight

from tljax import losses

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 1.0])
def test_cross_entropy_against_loops(smoothing):
  logits, labels = RNG.normal(size=(5, 4)) * 3, np.array([0, 3, 1, 1, 2])
  total = 0.0
  for row, label in zip(logits, labels, strict=True):
    for k in range(4):
      mass = smoothing / 4 + (1 - smoothing if k == label else 0)
      total -= mass * np.log(np.exp(row[k]) / sum(np.exp(x) for x in row))
  loss = losses.cross_entropy(
    jnp.float32(logits), jnp.int32(labels), label_smoothing=smoothing
  )
  chex.assert_shape(loss, ())
  np.testing.assert_allclose(loss, total / 5, rtol=1e-5)


def test_cross_entropy_and_accuracy_of_probabilities():
  logits = jnp.float32(RNG.normal(size=(5, 4)))
  labels = jnp.array([0, 3, 1, 1, 2])
  certain = losses.probabilities(labels, 4)
  np.testing.assert_array_equal(certain, np.eye(4)[labels])
  assert losses.probabilities(certain, 4) is certain
  for judge in (losses.cross_entropy, losses.accuracy):
    np.testing.assert_allclose(judge(logits, certain), judge(logits, labels))

  # Linear in the labels, so a blend of two costs the blend of their costs.
  others = losses.probabilities(labels[::-1], 4)
  blend = losses.cross_entropy(logits, 0.3 * certain + 0.7 * others)
  parts = [losses.cross_entropy(logits, part) for part in (certain, others)]
  np.testing.assert_allclose(blend, 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-5)


def test_cross_entropy_of_huge_logits_is_finite():
  loss = losses.cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([1]))
  np.testing.assert_allclose(loss, 1e4, rtol=1e-5)


@pytest.mark.parametrize(('n', 'm'), [(3, 3), (7, 2), (1, 5)])
def test_domain_cross_entropy_weighs_unequal_domains_alike(n, m):
  source, target = RNG.normal(size=n), RNG.normal(size=m)
  on_source = sum(-np.log(1 / (1 + np.exp(-x))) for x in source) / n
  on_target = sum(-np.log(1 - 1 / (1 + np.exp(-x))) for x in target) / m
  loss = losses.domain_cross_entropy(jnp.float32(source), jnp.float32(target))
  np.testing.assert_allclose(loss, (on_source + on_target) / 2, rtol=1e-5)


def test_domain_cross_entropy_falls_as_the_source_is_told_from_the_target():
  on_source, on_target = jax.grad(losses.domain_cross_entropy, (0, 1))(
    jnp.zeros(4), jnp.zeros(2)
  )
  np.testing.assert_allclose(on_source, np.full(4, -0.5 / 4 / 2), rtol=1e-6)
  np.testing.assert_allclose(on_target, np.full(2, 0.5 / 2 / 2), rtol=1e-6)


def test_accuracy():
  logits = jnp.array([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
  accuracy = losses.accuracy(logits, jnp.array([1, 0, 0, 0]))
  assert accuracy.dtype == jnp.float32 and accuracy == 0.75


def test_entropy_and_certainty_weights_against_loops(check_slow):
  logits = RNG.normal(size=(4, 3)) * 2

  def entropies(logits):
    rows = [np.exp(row) / np.sum(np.exp(row)) for row in logits]
    return np.array([-sum(p * np.log(p) for p in row) for row in rows])

  slopes = np.arange(1.0, 5.0)  # so that each row's gradient shows
  check_slow(
    lambda z: losses.entropy(z) @ slopes, lambda z: entropies(z) @ slopes, logits
  )
  weights = 1 + np.exp(-entropies(logits))
  got, grad = jax.value_and_grad(lambda z: losses.certainty_weights(z) @ slopes)(logits)
  np.testing.assert_allclose(got, 4 * weights @ slopes / weights.sum(), rtol=1e-5)
  np.testing.assert_array_equal(grad, np.zeros((4, 3)))


def test_entropy_is_finite_where_a_prediction_is_certain():
  logits = jnp.array([[0.0, 200.0], [0.0, 0.0]])
  value, grad = jax.value_and_grad(lambda z: losses.entropy(z).sum())(logits)
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
  np.testing.assert_allclose(grad, 0, atol=1e-7)


def test_domain_cross_entropy_weighs_examples():
  source, target = RNG.normal(size=3), RNG.normal(size=2)
  weights = [2.0, 0.0, 0.5], [1.0, 3.0]
  on_source = [
    w * np.log(1 + np.exp(-z)) for w, z in zip(weights[0], source, strict=True)
  ]
  on_target = [
    w * np.log(1 + np.exp(z)) for w, z in zip(weights[1], target, strict=True)
  ]
  loss = losses.domain_cross_entropy(
    *map(jnp.float32, (source, target, weights[0], weights[1]))
  )
  expected = (np.mean(on_source) + np.mean(on_target)) / 2
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


WEIGHTS = np.array([1.0, 0.5, 3.0])
LABELS = np.array([0, 2, 2, 1, 0])


@pytest.mark.parametrize('weights', [None, WEIGHTS])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('soft', [False, True])
def test_focal_loss_against_loops(check_slow, weights, gamma, soft):
  logits = np.random.default_rng(1).normal(size=(5, 3)) * 2
  table = np.eye(3)[LABELS]
  table = 0.7 * table + 0.3 * table[::-1] if soft else table

  def slow(logits):
    total = scale = 0.0
    for row, shares in zip(logits, table, strict=True):
      p = np.exp(row) / np.exp(row).sum()
      weight = 1.0 if weights is None else shares @ weights
      for k in range(3):
        total -= weight * shares[k] * (1 - p[k]) ** gamma * np.log(p[k])
      scale += weight
    return total / scale

  labels = table if soft else LABELS
  options = {'class_weights': weights}
  check_slow(lambda z: losses.focal(z, labels, gamma=gamma, **options), slow, logits)
  if gamma == 0:
    check_slow(lambda z: losses.cross_entropy(z, labels, **options), slow, logits)


def test_class_weights_are_scikit_learns():
  logits = RNG.normal(size=(5, 3))
  weights = compute_class_weight('balanced', classes=np.arange(3), y=LABELS)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  wanted = log_loss(LABELS, p, sample_weight=weights[LABELS], labels=range(3))
  got = losses.cross_entropy(jnp.float32(logits), LABELS, class_weights=weights)
  np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize('loss', [losses.cross_entropy, losses.focal])
def test_a_batch_without_weight_is_no_loss(loss):
  options = {'class_weights': np.array([0, 0, 1])}
  of_logits = jax.value_and_grad(lambda z: loss(z, jnp.array([0, 1]), **options))
  value, grad = of_logits(jnp.float32(RNG.normal(size=(2, 3))))
  assert value == 0
  np.testing.assert_array_equal(grad, 0)


def test_of_two_classes_focal_loss_is_optaxs():
  logits, labels = jnp.float32(RNG.normal(size=6)), jnp.array([0, 1, 1, 0, 1, 0])
  pairs = jnp.stack([jnp.zeros(6), logits], 1)
  wanted = optax.losses.sigmoid_focal_loss(logits, labels.astype(jnp.float32))
  np.testing.assert_allclose(losses.focal(pairs, labels), wanted.mean(), rtol=1e-5)


@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_focal_loss_of_certain_predictions_is_finite(gamma):
  logits = jnp.array([[200.0, 0.0], [0.0, 200.0]])
  loss = lambda z: losses.focal(z, jnp.array([0, 0]), gamma=gamma)  # noqa: E731
  value, grad = jax.value_and_grad(loss)(logits)
  np.testing.assert_allclose(value, 100, rtol=1e-5)
  np.testing.assert_allclose(grad, [[0, 0], [-0.5, 0.5]], atol=1e-5)


@pytest.mark.parametrize('one', [False, True])
def test_regression_losses_against_loops(check_slow, one):
  rng = np.random.default_rng(2)
  predictions, targets = rng.normal(size=(2, 4, 1 if one else 2)) * 2
  given = targets[:, 0] if one else targets

  def slow(penalty):
    def mean(predictions):
      pairs = zip(predictions.ravel(), targets.ravel(), strict=True)
      return np.mean([penalty(abs(p - t)) for p, t in pairs])

    return mean

  def huber(error):
    return error**2 / 2 if error <= 0.7 else 0.7 * (error - 0.35)

  for loss, penalty in (
    (losses.squared_error, lambda error: error**2),
    (functools.partial(losses.huber, delta=0.7), huber),
  ):
    check_slow(lambda p, loss=loss: loss(p, given), slow(penalty), predictions)


def test_binary_cross_entropy_against_loops(check_slow):
  labels = np.array([[1, 0, 1], [0, 0, 0]])

  def slow(logits):
    p = 1 / (1 + np.exp(-logits))
    return -np.sum(labels * np.log(p) + (1 - labels) * np.log(1 - p)) / 2

  logits = np.random.default_rng(3).normal(size=(2, 3))
  check_slow(lambda z: losses.binary_cross_entropy(z, labels), slow, logits)
