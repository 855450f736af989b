"""Ranks by hand."""

import pytest

from tljax.measures import ranking


def test_tau_counts_pairs_in_order_less_those_that_are_not():
  accuracies = [0.9, 0.8, 0.85]
  assert ranking.tau([3, 2, 1], accuracies) == pytest.approx(1 / 3)
  assert ranking.tau([1, 1, 1], accuracies) == 0


def test_a_weighted_tau_forgives_a_swap_of_the_last():
  # A pair weighs 1 / rank + 1 / rank: 3/2 + 4/3 in order, 5/6 not, whose sum is 11/3.
  found = ranking.tau([3, 2, 1], [0.9, 0.8, 0.85], weighted=True)
  assert found == pytest.approx(6 / 11)
  assert ranking.tau([1, 1, 1], [0.9, 0.8, 0.85], weighted=True) == 0


def test_regret_is_of_what_is_put_first():
  accuracies = [0.5, 0.9, 0.7]
  assert ranking.regret([1, 3, 2], accuracies) == 0
  assert ranking.regret([3, 1, 2], accuracies) == pytest.approx(0.4)
  assert ranking.regret([2, 1, 2], accuracies) == pytest.approx(0.3)  # 0.4 or 0.2
  assert ranking.regret([1, 1, 1], accuracies) == pytest.approx(0.2)


def test_the_consensus_is_of_the_scores_that_all_have():
  scores = {
    'slow': {'a': 1.0, 'b': 0.9, 'own': 0.0},
    'quick': {'a': 0.5, 'b': 0.95},
    'worse': {'a': 0.1, 'b': 0.7},
  }
  assert ranking.consensus(scores) == {'slow': 1.5, 'quick': 1.5, 'worse': 3}


def test_the_front_has_what_nothing_beats_and_equals_together():
  points = {'slow': (3, 0.9), 'quick': (1, 0.8), 'worse': (2, 0.7), 'twin': (1, 0.8)}
  assert ranking.pareto_front(points) == ['quick', 'twin', 'slow']
