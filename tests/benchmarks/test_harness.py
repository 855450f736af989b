"""Contenders in turn, on a clock that the test moves; rates and bars by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import harness
from benchmarks.harness import Bar, Contender
from tljax import adaptation, models
from tljax.finetuning.summary import abstract_state


class Clock:
  """Time that passes only where the test says."""

  def __init__(self):
    self.now = 0.0

  def spend(self, seconds):
    def run():
      self.now += seconds

    return run


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(harness.time, 'perf_counter', lambda: clock.now)
  return clock


@pytest.mark.parametrize('warm', [True, False])
@pytest.mark.parametrize(('rounds', 'steps'), [(1, 1), (3, 2), (2, 5)])
def test_contenders_take_turns_and_each_round_is_timed(clock, rounds, steps, warm):
  called, waited = [], []

  def contender(name, seconds):
    def step():
      called.append(name)
      clock.now += seconds * (1 + len(called))  # the machine slows down

    return Contender(step, wait=lambda: waited.append(len(called)))

  contenders = {'ours': contender('ours', 1.0), 'theirs': contender('theirs', 2.0)}
  seconds = harness.alternate(contenders, rounds, steps, warm)
  length = warm + steps
  assert called == (['ours'] * length + ['theirs'] * length) * rounds
  ends = [length * turn for turn in range(1, 2 * rounds + 1)]
  assert waited == sorted(ends + [end - steps for end in ends] * warm)
  assert list(seconds) == ['ours', 'theirs']
  calls = 2 + np.arange(len(called)).reshape(rounds, 2, length)[:, :, int(warm) :]
  np.testing.assert_allclose(seconds['ours'], calls[:, 0].mean(1))
  np.testing.assert_allclose(seconds['theirs'], 2 * calls[:, 1].mean(1))


@pytest.mark.parametrize(
  ('once', 'seconds', 'wanted'),
  [
    ({'a': 1.0, 'b': 2.0}, 30, (5, 1)),  # of two calls each
    ({'a': 1.0, 'b': 2.0}, 1, (3, 1)),  # slow steps have their three rounds
    ({'a': 0.01, 'b': 0.02}, 9.5, (10, 30)),  # a turn of 0.3 s of the quicker
    ({'a': 0.5}, 1000, (25, 1)),
  ],
)
def test_rounds_and_steps_fit_in_the_seconds(once, seconds, wanted):
  assert harness.plan(once, seconds) == wanted


def test_what_a_process_has_timed(clock):
  found = harness.take_turns(
    {
      'tljax': Contender(clock.spend(1.0), {'flops': 8.0}),
      'torch': Contender(clock.spend(1.5)),
      'torch.compile': 'no compiler',
    },
    seconds=10,
  )
  assert found.seconds == {'tljax': [1.0] * 3, 'torch': [1.5] * 3}
  assert found.steps == 1 and found.missing == {'torch.compile': 'no compiler'}
  assert found.facts == {'tljax': {'flops': 8.0}, 'torch': {}}


def test_once_is_without_a_warm_up(clock):
  found = harness.take_turns({'tljax': Contender(clock.spend(60))}, 10, once=True)
  assert clock.now == 60 and found.seconds == {'tljax': [60]}


def test_a_summary_is_of_all_rounds_of_all_processes():
  def process(ours, theirs, flops):
    facts = {'tljax': {'flops': flops}, 'torch': {}}
    return harness.Rounds({'tljax': ours, 'torch': theirs}, 2, facts, {'keras': 'why'})

  figures = harness.summary(
    [process([1.0, 2.0], [3.0, 4.0], 8.0), process([4.0], [4.0], 9.0)]
  )
  assert (figures['rounds'], figures['steps']) == (3, 2)
  assert figures['contenders'] == {
    'tljax': {'flops': 8.0, 'median': 2.0, 'low': 1.5, 'high': 3.0},
    'torch': {'median': 4.0, 'low': 3.5, 'high': 4.0},
  }
  # Round by round 3, 2 and 1.
  of_torch = {'median': 2.0, 'low': 1.5, 'high': 2.5, 'processes': [2.5, 1.0]}
  assert figures['ratios'] == {'torch': of_torch}
  assert figures['missing'] == {'keras': 'why'}


def test_what_is_reached_of_the_ceiling():
  ceiling = {'flops_per_second': 16.0, 'bytes_per_second': 24.0}
  figures = {'flops': 8.0, 'bytes': 6.0, 'median': 1.0}
  assert harness.shares(figures, ceiling) == {'of_flops': 0.5, 'of_bytes': 0.25}
  assert harness.shares({'median': 1.0}, ceiling) == {}


@pytest.mark.parametrize(
  ('bar', 'found', 'passes'),
  [
    (Bar(1.0), 2.0, True),
    (Bar(2.5), 2.0, False),
    (Bar(0.6, is_cost=True), 0.5, True),
    (Bar(0.4, is_cost=True), 0.5, False),
    (Bar(3, None), 3.0, True),
    (Bar(2, None), 3.0, False),
  ],
)
def test_a_bar(bar, found, passes):
  figures = {
    'contenders': {'tljax': {'median': 3.0}, 'torch': {'median': 6.0}},
    'ratios': {'torch': {'median': 2.0}},
  }
  judged = bar.judge(figures)
  assert (judged['found'], judged['passes']) == (found, passes)
  assert Bar(1.0, 'keras').judge(figures) is None


def test_the_best_rate_is_of_the_quickest_call(clock):
  spent = iter([9.0, 0.5, 0.25, 0.5, 9.0])  # the first warms up

  def run():
    clock.now += next(spent)

  assert harness.best_rate(run, amount=10.0) == 40.0


def test_the_ceiling_is_of_the_device():
  found = harness.ceiling(size=64)
  assert found['flops_per_second'] > 0 and found['bytes_per_second'] > 0


def test_operations_and_memory_of_a_compiled_product():
  x = jnp.ones((64, 32))
  compiled = jax.jit(jnp.matmul).lower(x, x.T).compile()
  facts = harness.compiled(compiled, 1.5)
  assert facts['flops'] == 2 * 64 * 32 * 64 and facts['compile_seconds'] == 1.5
  assert facts['memory_bytes'] >= 2 * x.nbytes + 4 * 64 * 64
  assert facts['bytes'] >= 2 * x.nbytes + 4 * 64 * 64


def test_a_filled_state_is_shaped_and_scaled_as_one_that_is_drawn():
  images, labels = jnp.full((4, 16, 16, 3), 0.2), jnp.arange(4, dtype=jnp.int32)
  batch = {'source': {'image': images, 'label': labels}, 'target': {'image': images}}
  method = adaptation.create('cdan', models.create('cnn', 10), optax.adam(1e-3))
  shapes = abstract_state(method, None, batch)
  state = harness.filled(shapes)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, shapes)
  norm = state.params['backbone']['stage1']['norm']
  assert (norm['scale'] == 1).all() and (norm['bias'] == 0).all()
  kernel = np.asarray(state.params['backbone']['stage3']['conv']['kernel'])
  np.testing.assert_allclose(kernel.var() * kernel[..., 0].size, 1, rtol=0.1)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.opt_state))


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
