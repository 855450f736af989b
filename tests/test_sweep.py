"""Each head of a sweep is the one that is trained alone."""

import math
import re

import jax
import numpy as np
import optax
import pytest

from tljax import sweep, train
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.extraction import probe
from tljax.models.base import FlattenMLP
from tljax.run import Run

HEAD = FlattenMLP(10, (12,), rate=0.3)
STEPS = 12
SETTINGS = sweep.grid(
  learning_rate=(1e-3, 1e-2), weight_decay=(0, 0.1), dropout=(0, 0.5), seed=(0, 3)
)


def make(learning_rate, weight_decay, dropout=None):
  optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
  return probe.method(probe.Probe(HEAD), optimizer, dropout=dropout)


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
  settings = sweep.grid(a=(1, 2), seed=(5, 6))
  assert settings == [{'a': a, 'seed': s} for a in (1, 2) for s in (5, 6)]


def test_each_member_is_trained_as_alone_and_all_compile_once(fit, stream, caplog):
  method = sweep.method(make, SETTINGS)
  with jax.log_compiles():
    state, records = fit(method, every=1)
  assert sum('Compiling jit(step)' in message for message in caplog.messages) == 1
  logits = np.asarray(method.predict(state, stream(0)['image']))
  assert logits.shape == (16, 16, 10)
  found = []
  for i in (3, 14, 15):
    settings = dict(SETTINGS[i])
    seed = settings.pop('seed')
    alone, _ = fit(make(**settings), seed=seed)
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


def test_without_seeds_all_members_start_alike(stream):
  method = sweep.method(make, sweep.grid(learning_rate=(1, 2), weight_decay=(0,)))
  states = [method.init(jax.random.key(seed), None, stream(0)) for seed in (0, 1)]
  first, other = (np.asarray(s.params['head']['fc1']['kernel']) for s in states)
  np.testing.assert_array_equal(first[:, 0], first[:, 1])
  assert not np.allclose(first, other)


def test_a_rate_given_later_drops_as_the_layer_does(fit):
  own, given = (
    fit(probe.method(probe.Probe(HEAD), optax.sgd(0.1), dropout=rate))[0]
    for rate in (None, 0.3)
  )
  for got, wanted in zip(
    jax.tree.leaves(given.params), jax.tree.leaves(own.params), strict=True
  ):
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_one_may_diverge(fit, tmp_path):
  settings = sweep.grid(learning_rate=(1e-3, np.inf), weight_decay=(0,))
  run = Run.open(tmp_path / 'run', {}, resume=False)
  state, records = fit(sweep.method(make, settings), run=run, is_sound=sweep.any_finite)
  good, bad = (
    sweep.member(state, i).params['head']['classifier']['kernel'] for i in (0, 1)
  )
  assert np.isfinite(good).all() and not np.isfinite(bad).all()
  assert np.isfinite(records[-1]['loss'])
  run = Run.open(tmp_path / 'all', {}, resume=False)
  settings = sweep.grid(learning_rate=(np.inf, np.inf), weight_decay=(0,))
  with pytest.raises(InputError, match='step 1 left parameters .* not finite'):
    fit(sweep.method(make, settings), steps=1, run=run, is_sound=sweep.any_finite)


def test_it_resumes_as_any_method(fit, tmp_path, raw):
  settings = sweep.grid(learning_rate=(1e-3, 1e-2), weight_decay=(0,))
  method = sweep.method(make, settings)
  whole, _ = fit(method)
  run = Run.open(tmp_path, {}, resume=False)
  fit(method, steps=5, run=run)
  resumed, _ = fit(method, run=run)
  assert raw(resumed) == raw(whole)


def test_members_with_batches_of_their_own(pixels, fit, one_device):
  """Three seeds at once, batches too, are what each is alone."""
  data = Dataset(pixels[0] / np.float32(16), pixels[1], tuple('0123456789'))
  method = make(1e-2, 0.1)
  streams = {seed: batches.stream(data, 16, seed) for seed in (0, 3, 4)}
  splits = {'train': data, 'validation': data.take(np.arange(50))}
  together = train.trials_at_once(method, streams, STEPS, splits)
  for seed, stream in streams.items():
    alone = train.trial(method, stream, STEPS, splits, seed=seed)
    np.testing.assert_allclose(together[seed].logits, alone.logits, atol=1e-5)
    assert together[seed].accuracy == alone.accuracy
  assert not np.allclose(together[0].logits, together[3].logits, atol=0.1)


def test_no_kernel_is_transposed_for_members_of_one_batch(stream):
  method = sweep.method(make, sweep.grid(learning_rate=(0.1, 0.2), weight_decay=(0,)))
  state = method.init(jax.random.key(0), None, stream(0))
  program = jax.jit(method.step).lower(state, stream(0)).compile().as_text()
  size = state.params['head']['fc1']['kernel'].size
  moved = re.findall(r'= f32\[([\d,]+)\]\S* (?:transpose|copy)\(', program)
  assert size not in [math.prod(map(int, shape.split(','))) for shape in moved]
