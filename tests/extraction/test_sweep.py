"""Each head of a sweep is the one that is trained alone."""

import jax
import numpy as np
import optax
import pytest

from tljax import train
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.extraction import probe, sweep
from tljax.models.base import FlattenMLP
from tljax.run import Run

HEAD = FlattenMLP(10, (12,), rate=0.3)
STEPS = 12
MEMBERS = sweep.grid(
  learning_rate=(1e-3, 1e-2), weight_decay=(0, 0.1), dropout=(0, 0.5), seed=(0, 3)
)


def make(learning_rate, weight_decay, dropout=None):
  optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
  return probe.method(probe.Probe(HEAD), optimizer, dropout=dropout)


@pytest.fixture(autouse=True, scope='module')
def compile_fast():
  """These heads are tiny and compile for far longer than they compute."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def stream(pixels):
  data = Dataset(pixels[0] / np.float32(16), pixels[1], tuple('0123456789'))
  return batches.stream(data, 16, seed=1)


@pytest.fixture
def fit(stream, one_device):
  def fit(method, seed=0, steps=STEPS, **options):
    state = method.init(jax.random.key(seed), None, stream(0))
    return train.fit(method, state, stream, steps, mesh=one_device, **options)

  return fit


def test_the_grid_has_every_combination():
  members = sweep.grid(a=(1, 2), seed=(5, 6, 7))
  np.testing.assert_array_equal(members['a'], [1, 1, 1, 2, 2, 2])
  np.testing.assert_array_equal(members['seed'], [5, 6, 7, 5, 6, 7])


def test_each_member_is_trained_as_alone_and_all_compile_once(fit, stream, caplog):
  method = sweep.method(make, MEMBERS)
  with jax.log_compiles():
    state, records = fit(method, every=1)
  assert sum('Compiling jit(step)' in message for message in caplog.messages) == 1
  logits = np.asarray(method.predict(state, stream(0)['image']))
  assert logits.shape == (16, 16, 10)
  found = []
  for i in (3, 14, 15):
    settings = {k: float(v[i]) for k, v in MEMBERS.items() if k != 'seed'}
    alone, _ = fit(make(**settings), seed=int(MEMBERS['seed'][i]))
    mine = sweep.member(state, i)
    assert mine.step == alone.step == STEPS
    for got, wanted in zip(
      jax.tree.leaves((mine.params, mine.opt_state)),
      jax.tree.leaves((alone.params, alone.opt_state)),
      strict=True,
    ):
      np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    wanted = make(**settings).predict(alone, stream(0)['image'])
    np.testing.assert_allclose(logits[:, i], wanted, rtol=1e-4, atol=1e-5)
    found.append(wanted)
  assert not np.allclose(found[1], found[2], atol=0.1)  # another seed
  assert records[-1]['loss'] < records[0]['loss']


def test_a_rate_given_later_drops_as_the_layer_does(fit):
  own, given = (
    fit(probe.method(probe.Probe(HEAD), optax.sgd(0.1), dropout=rate))[0]
    for rate in (None, 0.3)
  )
  for got, wanted in zip(
    jax.tree.leaves(given.params), jax.tree.leaves(own.params), strict=True
  ):
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_one_may_diverge(fit):
  members = sweep.grid(learning_rate=(1e-3, np.inf), weight_decay=(0,))
  state, records = fit(sweep.method(make, members))
  kernels = state.params['head']['classifier']['kernel']
  assert np.isfinite(kernels[0]).all() and not np.isfinite(kernels[1]).all()
  assert np.isfinite(records[-1]['loss'])


def test_it_resumes_as_any_method(fit, tmp_path, raw):
  members = sweep.grid(learning_rate=(1e-3, 1e-2), weight_decay=(0,), seed=(0, 1))
  method = sweep.method(make, members)
  whole, _ = fit(method)
  run = Run.open(tmp_path, {}, resume=False)
  fit(method, steps=5, run=run)
  resumed, _ = fit(method, run=run)
  assert raw(resumed) == raw(whole)


def test_the_best_settings_are_those_of_the_best_mean():
  members = sweep.grid(a=(1, 2), b=(1, 2), seed=(0, 1))
  scores = np.array([0.9, 0.1, 0.5, 0.6, 0.8, 0.0, 0.5, 0.5])
  np.testing.assert_array_equal(sweep.choose(members, scores), [2, 3])
  only_seeds = sweep.grid(seed=(4, 5))
  np.testing.assert_array_equal(sweep.choose(only_seeds, np.zeros(2)), [0, 1])
