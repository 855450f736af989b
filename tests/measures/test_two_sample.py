from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from tljax.errors import InputError
from tljax.measures import shift, two_sample

RNG = np.random.default_rng(0)


def test_proxy_a_distance_at_its_ends():
  near, far = RNG.normal(size=(2, 400, 3)), RNG.normal(9, 1, size=(100, 3))
  assert abs(two_sample.proxy_a_distance(*near)) < 0.3
  assert two_sample.proxy_a_distance(near[0], far) == 2


def test_proxy_a_distance_is_of_the_best_linear_error():
  """Two Gaussians a distance d apart are told apart with an error of Phi(-d / 2)."""
  gap, error = 2.0, 0.15866
  source, target = RNG.normal(size=(2, 6000, 2))
  target = target[:3000] + np.array([gap, 0])
  got = two_sample.proxy_a_distance(source, target)
  np.testing.assert_allclose(got, 2 * (1 - 2 * error), atol=0.06)


def test_proxy_a_distance_is_judged_on_what_it_has_not_seen():
  """In more dimensions than points all can be learned by heart."""
  source, target = RNG.normal(size=(2, 40, 200))
  assert two_sample.proxy_a_distance(source, target) < 1


def test_p_value_counts_permutations():
  """By `shift.mmd` of each, with kernels as wide as the median of all points says."""
  rng = np.random.default_rng(1)
  source, target = rng.normal(size=(6, 2)), rng.normal(1.0, 1, size=(5, 2))
  points = np.float32(np.concatenate([source, target]))
  rng = np.random.default_rng(3)
  orders = [np.arange(11)] + [rng.permutation(11) for _ in range(60)]
  median = np.median([np.sum((x - y) ** 2) for x, y in combinations(points, 2)])

  def kernel(squared, mean):
    del mean
    return sum(jnp.exp(-squared / (2 * median * 2.0**i)) for i in range(-3, 2))

  distances = [
    float(shift.mmd(*map(jnp.asarray, np.split(points[o], [6])), kernel=kernel))
    for o in orders
  ]
  wanted = np.mean(np.array(distances) >= distances[0])
  got = two_sample.mmd_p_value(source, target, permutations=60, seed=3)
  assert 0.05 < wanted < 0.9
  np.testing.assert_allclose(got, wanted)


def test_a_p_value_takes_two_points_of_each():
  with pytest.raises(InputError, match='sets of 1 and 4 points'):
    two_sample.mmd_p_value(np.zeros((1, 2)), np.ones((4, 2)))


def test_p_values_of_one_distribution_are_uniform():
  """And those of two are small."""
  values = [
    two_sample.mmd_p_value(*RNG.normal(size=(2, 12, 2)), permutations=99, seed=i)
    for i in range(100)
  ]
  assert 0.4 < np.mean(values) < 0.6 and np.mean(np.array(values) <= 0.1) < 0.2
  apart = two_sample.mmd_p_value(
    RNG.normal(size=(20, 2)), RNG.normal(2, 1, size=(20, 2)), permutations=99
  )
  assert apart == 0.01


@pytest.mark.parametrize('count', [20, 4])
def test_frechet_distance(count):
  """By SciPy's matrix root; of four points in five dimensions it is singular."""
  source, target = RNG.normal(size=(20, 5)), RNG.normal(0.5, 2, size=(count, 5))
  first, second = np.cov(source.T), np.cov(target.T)
  half = linalg.sqrtm(first)
  values = np.linalg.eigvalsh(half @ second @ half)
  root = np.sum(np.sqrt(np.maximum(values, 0)))
  gap = np.sum((source.mean(0) - target.mean(0)) ** 2)
  wanted = gap + np.trace(first) + np.trace(second) - 2 * root
  got = two_sample.frechet_distance(source, target)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_frechet_distance_of_itself_and_of_a_shift():
  points = RNG.normal(size=(9, 3))
  np.testing.assert_allclose(two_sample.frechet_distance(points, points), 0, atol=1e-9)
  moved = two_sample.frechet_distance(points, points + np.array([1, -2, 0.5]))
  np.testing.assert_allclose(moved, 5.25, rtol=1e-9)
