"""Two contenders in turn, on a clock that the test moves."""

import numpy as np
import pytest

from benchmarks import harness


@pytest.mark.parametrize(('rounds', 'steps'), [(1, 1), (3, 2), (2, 5)])
def test_contenders_take_turns_and_each_round_is_timed(monkeypatch, rounds, steps):
  now, called = 0.0, []

  def contender(name, seconds):
    def step():
      nonlocal now
      called.append(name)
      now += seconds * (1 + len(called))  # the machine slows down

    return step

  monkeypatch.setattr(harness.time, 'perf_counter', lambda: now)
  contenders = {'ours': contender('ours', 1.0), 'theirs': contender('theirs', 2.0)}
  seconds = harness.alternate(contenders, rounds, steps)
  assert called == (['ours'] * steps + ['theirs'] * steps) * rounds
  assert list(seconds) == ['ours', 'theirs']
  calls = 2 + np.arange(len(called)).reshape(rounds, 2, steps)
  np.testing.assert_allclose(seconds['ours'], calls[:, 0].mean(1))
  np.testing.assert_allclose(seconds['theirs'], 2 * calls[:, 1].mean(1))


@pytest.mark.parametrize(
  ('values', 'wanted'),
  [
    ([3.0], (3, 3, 3)),
    ([5.0, 1.0, 2.0, 4.0, 3.0], (2, 3, 4)),
    ([1.0, 2.0], (1.25, 1.5, 1.75)),
  ],
)
def test_quartiles(values, wanted):
  quartiles = harness.quartiles(values)
  assert (quartiles['low'], quartiles['median'], quartiles['high']) == wanted
  assert all(type(value) is float for value in quartiles.values())  # JSON takes them
