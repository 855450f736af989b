import numpy as np
import pytest
from sklearn.datasets import make_blobs

from tljax.errors import InputError
from tljax.finetuning import strategy
from tljax.finetuning.strategy import Evidence


def blobs(examples, classes, spread, seed=0):
  centers = 10 * np.eye(classes, 16)
  points, labels = make_blobs(examples, centers=centers, cluster_std=spread)
  return np.float32(points), labels


@pytest.mark.parametrize(('spread', 'accuracy'), [(0.5, 1.0), (1e4, 0.25)])
def test_the_probe_judges_examples_that_it_has_not_seen(spread, accuracy):
  """In 16 dimensions 40 points can be told apart if they were learned by heart."""
  found = strategy.measure(*blobs(40, 4, spread), 4)
  assert (found.examples, found.classes) == (40, 4)
  assert found.accuracy == pytest.approx(accuracy, abs=0.25)
  assert found.skill == pytest.approx((accuracy - 0.25) / 0.75, abs=0.35)


def test_a_large_set_is_measured_on_a_part_of_it():
  found = strategy.measure(*blobs(5000, 4, 0.5), 4)
  assert found.examples == 5000 and found.accuracy == 1


def test_no_rare_class_is_left_one_example_in_the_part_that_is_measured():
  labels = np.repeat(np.arange(24), [1000] * 4 + [3] * 20)
  found = strategy.measure(np.eye(24, dtype=np.float32)[labels], labels, 24)
  assert found.accuracy > 0.9
  assert 'alone' not in strategy.choose(found).reason


def test_the_part_that_is_measured_grows_to_two_of_each_class():
  labels = np.arange(3000) % 1200
  rows = np.float32(np.random.default_rng(0).normal(size=(3000, 2)))
  assert strategy.measure(rows, labels, 1200).accuracy is not None


def test_a_class_of_one_example_is_none_to_hold_out():
  rows, labels = np.eye(3, dtype=np.float32), np.array([0, 0, 1])
  found = strategy.measure(rows, labels, 2)
  assert found.accuracy is found.skill is None
  advice = strategy.choose(found)
  assert advice.name == 'probe' and 'a class has one alone' in advice.reason
  assert strategy.choose(found._replace(examples=2000)).name == 'full'
  with pytest.raises(InputError, match='class 2 has no training example'):
    strategy.measure(rows, labels, 3)


def chosen(examples, classes=4, accuracy=0.8, **options):
  evidence = Evidence(examples, classes, accuracy, image_seconds=0.035)
  return strategy.choose(evidence, **options)


@pytest.mark.parametrize(
  ('examples', 'accuracy', 'name'),
  [
    (20, 0.8, 'probe'),
    (20, 0.3, 'partial'),  # frozen features do not serve
    (80, 0.8, 'partial'),
    (80, 0.3, 'full'),  # nor here
    (800, 0.8, 'full'),
    (800, 0.3, 'full'),
  ],
)
def test_the_choice(examples, accuracy, name):
  found = chosen(examples, accuracy=accuracy)
  assert found.name == name
  assert found.augment == ('none' if name == 'probe' else 'flip')
  assert f'{examples // 4} examples of a class' in found.reason
  assert f'{accuracy:.0%}' in found.reason and found.reason.count('. ') == 1


def test_the_steps_grow_with_the_set_within_limits():
  steps = [chosen(examples).steps for examples in (20, 3200, 10**7)]
  assert steps == [60, 300, 10_000]


@pytest.mark.parametrize(
  ('seconds', 'name'), [(400, 'full'), (300, 'partial'), (100, 'probe'), (0, 'probe')]
)
def test_the_budget(seconds, name):
  """300 steps of 32 examples, at 35 ms each where all is tuned."""
  found = chosen(3200, seconds=seconds)
  assert found.name == name
  if name != 'full':
    assert (
      f"'full' would take about 336 seconds, more than the {seconds}" in found.reason
    )
