import numpy as np
import pytest

from tljax.measures import validators

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 4)) * 3


def predict(logits):
  return [np.exp(z) / np.sum(np.exp(z)) for z in logits]


def entropy(p):
  return -sum(x * np.log(x) for x in p if x > 0)


def test_source_accuracy():
  logits = np.array([[1.0, 2], [3, 0], [0, 1], [5, 4]])
  assert validators.source_accuracy(logits, np.array([1, 0, 0, 1])) == 0.5


def test_negative_entropy_and_information():
  rows = predict(LOGITS)
  mean = np.mean([entropy(p) for p in rows])
  np.testing.assert_allclose(validators.negative_entropy(LOGITS), -mean)
  wanted = entropy(np.mean(rows, 0)) - mean
  np.testing.assert_allclose(validators.information(LOGITS), wanted)


def test_one_class_for_all_deceives_the_entropy_alone():
  collapsed, right = np.eye(3)[[0] * 6] * 50, np.eye(3)[[0, 1, 2] * 2] * 50
  pair = [validators.negative_entropy(x) for x in (collapsed, right)]
  np.testing.assert_allclose(pair, 0, atol=1e-9)
  for validator in (validators.information, validators.nuclear_norm):
    assert validator(right) > validator(collapsed) + 0.2
  np.testing.assert_allclose(validators.information(right), np.log(3))


def test_nuclear_norm():
  gram = np.array(predict(LOGITS))
  values = np.linalg.eigvalsh(gram.T @ gram)
  wanted = np.sum(np.sqrt(np.maximum(values, 0))) / 7
  np.testing.assert_allclose(validators.nuclear_norm(LOGITS), wanted)


@pytest.mark.parametrize('block', [3, 100])
def test_soft_neighborhood_density(block):
  rows, total = predict(LOGITS), 0.0
  for i, p in enumerate(rows):
    cosines = [p @ q / np.sqrt((p @ p) * (q @ q)) for j, q in enumerate(rows) if j != i]
    near = np.exp(np.array(cosines) / 0.1)
    total += entropy(near / near.sum()) / 7
  got = validators.soft_neighborhood_density(LOGITS, 0.1, block=block)
  np.testing.assert_allclose(got, total)


def test_effective_rank():
  features = RNG.normal(size=(9, 4))
  roots = np.sqrt(np.linalg.eigvalsh(features.T @ features))
  wanted = np.exp(entropy(roots / roots.sum()))
  np.testing.assert_allclose(validators.effective_rank(features), wanted)
  np.testing.assert_allclose(validators.effective_rank(np.eye(5)[:3]), 3)
  line = np.outer(RNG.normal(size=6), RNG.normal(size=4))
  np.testing.assert_allclose(validators.effective_rank(line), 1, rtol=1e-9)


def test_density_ratio_of_two_gaussians():
  """exp(x - 1 / 2) of N(1, 1) over N(0, 1), however many points there are of either."""
  source, target = RNG.normal(size=(20_000, 1)), RNG.normal(1, 1, size=(5000, 1))
  points = np.linspace(-1, 2, 7)[:, None]
  got = validators.density_ratio(source, target, points)
  np.testing.assert_allclose(got, np.exp(points[:, 0] - 0.5), rtol=0.15)


def test_density_ratio_of_one_distribution_in_many_dimensions():
  """It is 1; a fixed penalty told 500 points of 512 features apart by chance."""
  source, target, points = np.random.default_rng(0).normal(size=(3, 500, 512))
  got = validators.density_ratio(source, target, points)
  np.testing.assert_allclose(got.mean(), 1, rtol=0.1)
  assert np.isfinite(validators.density_ratio(source, target + 9, 1e4 + points)).all()


def test_validators_of_half_precision_and_of_zeros():
  logits = RNG.normal(size=(8, 3)).astype(np.float16)
  got = validators.nuclear_norm(logits), validators.effective_rank(logits)
  wide = np.float64(logits)
  wanted = validators.nuclear_norm(wide), validators.effective_rank(wide)
  np.testing.assert_allclose(got, wanted, rtol=1e-3)
  assert validators.effective_rank(np.zeros((4, 3))) == 1


def test_dev_of_equal_weights_is_iwcv():
  losses, weights = RNG.uniform(size=333), np.full(333, 0.1)
  assert validators.dev(losses, weights) == validators.iwcv(losses, weights)


def test_dev_of_the_largest_weights_is_finite():
  losses, weights = np.float64([1, 1, 0, 0, 1, 0]), np.float64([1, 2, 1, 3, 1, 2])
  scaled = validators.dev(losses, 1e154 * weights)
  slope = np.cov(weights * losses, weights)[0, 1] / np.var(weights, ddof=1)
  wanted = -1e154 * (np.mean(weights * losses) - slope * np.mean(weights))
  np.testing.assert_allclose(scaled, wanted)


def test_iwcv_and_dev():
  losses, weights = RNG.uniform(size=6), RNG.uniform(0.2, 3, size=6)
  weighted = [w * x for w, x in zip(weights, losses, strict=True)]
  mean, mean_weight = sum(weighted) / 6, sum(weights) / 6
  np.testing.assert_allclose(validators.iwcv(losses, weights), -mean)
  shared = sum(
    (x - mean) * (w - mean_weight) for x, w in zip(weighted, weights, strict=True)
  )
  slope = -shared / sum((w - mean_weight) ** 2 for w in weights)
  wanted = -(mean + slope * mean_weight - slope)
  np.testing.assert_allclose(validators.dev(losses, weights), wanted)
  even = np.ones(6)
  assert validators.dev(losses, even) == validators.iwcv(losses, even)


def test_the_consensus_is_of_ranks_whatever_the_units():
  said = [[0.1, 0.4, 0.2], [-900, -10, -10], [3e-5, 2e-5, 1e-5]]
  # Ranks 3 1 2, 3 1.5 1.5 and 1 2 3.
  wanted = [-7 / 3, -1.5, -6.5 / 3]
  np.testing.assert_allclose(validators.consensus(said), wanted)
  assert validators.consensus(said[:1]).tolist() == [-3, -1, -2]
  np.testing.assert_array_equal(validators.consensus(np.zeros((2, 3))), -2)


def test_dev_varies_less_about_the_same_risk():
  """The target's risk of x^2 under N(0.5, 1) from samples of N(0, 1)."""
  figures = []
  for _ in range(400):
    x = RNG.normal(size=300)
    pair = x**2, np.exp(0.5 * x - 0.125)
    figures.append([validators.iwcv(*pair), validators.dev(*pair)])
  np.testing.assert_allclose(np.mean(figures, 0), -1.25, atol=0.03)
  spread = np.std(figures, 0)
  assert spread[1] < 0.8 * spread[0]
