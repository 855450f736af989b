import numpy as np
import pytest

from tljax.errors import InputError
from tljax.measures import gap, label_shift

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('name', gap.DISTANCES)
def test_every_distance_tells_a_gap_from_none(name):
  distance = gap.DISTANCES[name]
  source, other, target = RNG.normal(size=(3, 60, 4))
  source, target = gap.on_one_scale(source, 1.5 * target + 1)
  far = gap.interval(distance, source, target, draws=6)
  assert far.halves > 2 * gap.itself(distance, source)


def test_intervals_hold_the_truth_as_often_as_they_say():
  """The distance of means of one coordinate, which is normal."""

  def means(source, target):
    return float(target.mean() - source.mean())

  held = []
  for seed in range(600):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(100, 1)), 1 + rng.normal(size=(100, 1))
    one = gap.interval(means, *rows, draws=50, seed=seed)
    held.append(one.low <= 1 <= one.high)
  assert 0.925 <= np.mean(held) <= 0.97
  with pytest.raises(InputError, match='--draws is 1'):
    gap.interval(means, *rows, draws=1)


@pytest.mark.parametrize(('count', 'other'), [(80, 80), (80, 40)])
def test_halves_of_one_domain_are_as_far_apart_as_halves_of_equal_ones(count, other):
  """|mean - mean'|^2 is 1 / n + 1 / m by chance, of variances of 1."""

  def means(source, target):
    return float(np.sum((source.mean(0) - target.mean(0)) ** 2))

  rng = np.random.default_rng(0)
  nothing, far = [], []
  for seed in range(60):
    source, target = rng.normal(size=(count, 1)), rng.normal(size=(other, 1))
    nothing.append(gap.itself(means, source, other))
    far.append(gap.interval(means, source, target, draws=10, seed=seed).halves)
  chance = 2 / count + 2 / other
  np.testing.assert_allclose(np.mean(nothing), chance, rtol=0.25)
  np.testing.assert_allclose(np.mean(far), chance, rtol=0.5)


def test_on_one_scale():
  source, target = gap.on_one_scale(*(7 * RNG.normal(size=(2, 50, 3))))
  np.testing.assert_allclose(source.var(0).sum(), 1, rtol=1e-5)
  assert 0.5 < target.var(0).sum() < 2
  with pytest.raises(InputError, match='8 or more'):
    gap.on_one_scale(source[:7], target)
  with pytest.raises(InputError, match='same features'):
    gap.on_one_scale(np.ones((9, 2)), target[:, :2])


def classes(count, shares):
  labels = np.repeat([0, 1], np.round(count * np.array(shares)).astype(int))
  return RNG.normal(size=(len(labels), 2)) + 4 * labels[:, None], labels


def test_bbse_recovers_the_shares_in_spite_of_errors():
  source, labels = classes(4000, (0.5, 0.5))
  target, _ = classes(4000, (0.8, 0.2))
  # A threshold off the middle errs on one class.
  predictions = [np.int64(x.mean(1) > 3.5) for x in (source, target)]
  found = label_shift.bbse(predictions[0], labels, predictions[1], 2)
  assert abs(predictions[1].mean() - 0.2) > 0.03
  np.testing.assert_allclose(found, [0.8, 0.2], atol=0.01)


def test_bbse_at_its_limits():
  same = np.array([0, 1, 2, 2])
  np.testing.assert_allclose(
    label_shift.bbse(same, same, same, 4), [0.25, 0.25, 0.5, 0]
  )
  # What one class alone is predicted as tells nothing of the others.
  blind, even = np.zeros(4, int), np.array([0, 1, 0, 1])
  np.testing.assert_allclose(label_shift.bbse(blind, even, blind, 2), [0.5, 0.5])
  with pytest.raises(InputError, match='there are none'):
    label_shift.bbse(same, same, same[:0], 3)
  with pytest.raises(InputError, match='no class'):
    label_shift.bbse(same[:2], same[:2], np.array([3]), 4)


def test_resampling_meets_the_shares_and_takes_nothing_twice():
  labels = np.repeat([0, 1, 2], [10, 30, 60])
  chosen = label_shift.resample(labels, np.array([0.5, 0.5, 0]))
  assert len(np.unique(chosen)) == len(chosen) == 20
  np.testing.assert_array_equal(np.bincount(labels[chosen]), [10, 10])
  every = label_shift.resample(labels, np.array([0.1, 0.3, 0.6]))
  np.testing.assert_array_equal(every, np.arange(100))


def test_the_gap_is_split_into_what_made_it():
  source, labels = classes(400, (0.5, 0.5))
  relabelled, _ = classes(400, (0.9, 0.1))
  parts = gap.decompose(source, labels, relabelled, np.array([0.9, 0.1]))
  assert parts.label_share > 0.9
  moved, _ = classes(400, (0.5, 0.5))
  parts = gap.decompose(source, labels, 2 * moved + 3, np.array([0.5, 0.5]))
  assert parts.label_share < 0.2 and parts.style_share > 0.9
  bent = np.where(RNG.random((400, 1)) < 0.5, moved, -moved + [[9, -4]])
  parts = gap.decompose(source, labels, bent, np.array([0.5, 0.5]))
  assert max(parts.label_share, parts.style_share) < 0.7


def test_too_few_of_a_class_leave_its_part_of_the_gap_open():
  source, labels = classes(40, (0.9, 0.1))
  parts = gap.decompose(source, labels, source + 1, np.array([0.1, 0.9]))
  assert np.isnan(parts.label_share) and parts.style_share > 0.5


def test_by_class_skips_what_is_too_few():
  source, labels = classes(60, (0.5, 0.5))
  target = source + labels[:, None]
  predicted = np.where(np.arange(60) < 25, 0, 1)
  predicted[25:57] = 0
  assert gap.by_class(source, labels, target, predicted, draws=2).keys() == {0}
  found = gap.by_class(source, labels, target, labels, draws=4)
  assert found[1].value > found[0].value
