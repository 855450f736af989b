import collections
import dataclasses
import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import optimizers, train
from tljax.checkpoint import Checkpoints
from tljax.data import batches
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.run import Run

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def method(model):
  return plain.method(model, optax.adam(1e-3))


@pytest.fixture
def stream(family_batches):
  return family_batches['finetuning']


@pytest.fixture
def state(method, stream):
  return method.init(jax.random.key(0), None, stream(0))


@pytest.mark.parametrize(
  ('steps', 'every', 'recorded'),
  [
    (5, 2, [2, 4, 5]),
    (4, 2, [2, 4]),
    (20, None, list(range(2, 21, 2))),
    (2, None, [1, 2]),
  ],
)
def test_records_come_every_so_often_and_at_the_end(
  method, state, stream, steps, every, recorded, one_device
):
  evaluated = []

  def evaluate(state):
    evaluated.append(int(state.step))
    return {'figure': 2.0 * int(state.step)}

  state, records = train.fit(
    method, state, stream, steps, evaluate=evaluate, every=every, mesh=one_device
  )
  assert int(state.step) == steps
  assert evaluated == [record['step'] for record in records] == recorded
  assert [record['figure'] for record in records] == [2.0 * s for s in recorded]
  seconds = [record['seconds'] for record in records]
  assert seconds == sorted(seconds) and seconds[0] > 0


def test_steps_are_dispatched_while_others_are_under_way(
  method, state, stream, one_device, monkeypatch
):
  """Losses are fetched late, so that the device has work; not so late that batches pile
  up.
  """
  dispatched, under_way, jit = 0, [], jax.jit

  class Late:
    """A number of a step that notes how many were dispatched when it is fetched."""

    def __init__(self, value):
      self.value, self.step = value, dispatched

    def __float__(self):
      under_way.append((self.step, dispatched - self.step))
      return float(self.value)

    block_until_ready = __float__

  def with_late_metrics(function, **options):
    compiled = jit(function, **options)
    if function is not method.step:
      return compiled

    def step(state, batch):
      nonlocal dispatched
      dispatched += 1
      state, metrics = compiled(state, batch)
      return state, {name: Late(value) for name, value in metrics.items()}

    return step

  monkeypatch.setattr(jax, 'jit', with_late_metrics)
  train.fit(method, state, stream, 30, every=30, mesh=one_device)
  assert {step for step, _ in under_way} == set(range(1, 31))
  meanwhile = [more for step, more in under_way if step <= 20]
  assert 1 <= min(meanwhile) and max(meanwhile) <= 10


def test_fit_is_the_method_stepped_by_hand(method, stream, one_device, raw):
  by_hand, fitted = (method.init(jax.random.key(0), None, stream(0)) for _ in range(2))
  step = jax.jit(method.step)
  for t in range(3):
    by_hand, metrics = step(by_hand, stream(t))
  fitted, records = train.fit(method, fitted, stream, 3, mesh=one_device)
  assert raw(fitted) == raw(by_hand)
  assert records[-1]['loss'] == float(metrics['loss'])


def test_a_loss_that_is_not_finite_names_the_step_and_spares_the_checkpoint(
  method, state, stream, one_device, raw, tmp_path
):
  def poisoned(step):
    batch = stream(step)
    return {**batch, 'image': batch['image'] * jnp.nan} if step == 4 else batch

  run = Run.open(tmp_path, {}, resume=False)
  options = {'every': 2, 'run': run, 'mesh': one_device}
  with pytest.raises(InputError, match='loss is nan at step 5, the first'):
    train.fit(method, state, poisoned, 10, **options)
  assert [record['step'] for record in run.records()] == [2, 4]
  with Checkpoints(run.checkpoints('train')) as checkpoints:
    assert checkpoints.latest_step() == 4

  def fresh():
    return method.init(jax.random.key(0), None, stream(0))

  resumed, _ = train.fit(method, fresh(), stream, 6, **options)
  whole, _ = train.fit(method, fresh(), stream, 6, mesh=one_device)
  assert raw(resumed) == raw(whole)


def test_an_image_that_cannot_be_read_costs_no_step(
  method, state, stream, one_device, raw, tmp_path
):
  def read(step):
    if step == 5:
      raise InputError('x.png: cannot be read')
    return stream.read(step)

  run = Run.open(tmp_path, {}, resume=False)
  broken = stream._replace(read=read)
  with pytest.raises(InputError, match='x.png: cannot be read'):
    train.fit(method, state, broken, 8, every=8, run=run, mesh=one_device)
  with Checkpoints(run.checkpoints('train')) as checkpoints:
    assert checkpoints.latest_step() == 5
  fresh = [method.init(jax.random.key(0), None, stream(0)) for _ in range(2)]
  resumed, _ = train.fit(method, fresh[0], stream, 8, run=run, mesh=one_device)
  whole, _ = train.fit(method, fresh[1], stream, 8, mesh=one_device)
  assert raw(resumed) == raw(whole)


def test_a_run_compiles_once_whatever_it_meets(model, domains, caplog):
  """Ends of epochs, partial batches, evaluations and unfreezing compile nothing."""
  splits = {name: part.take(np.arange(37)) for name, part in domains['digits'].items()}
  unfreezing = optimizers.gradual_unfreezing(model.spec, every=2)
  method = plain.method(model, optax.chain(optax.adam(1e-3), unfreezing))
  stream = batches.stream(splits['train'], 16, seed=0)
  with jax.log_compiles():
    train.trial(method, stream, 8, splits, seed=0, every=2)
  found = collections.Counter(
    match[1]
    for message in caplog.messages
    if (match := re.match(r'Compiling jit\((.*?)\) ', message))
  )
  assert (found['step'], found['<lambda>']) == (1, 1)  # which predicts
  caplog.clear()
  with jax.log_compiles():
    train.trial(method, stream, 8, splits, seed=1, every=2, name='again')
  assert not [m for m in caplog.messages if re.match(r'Compiling jit\(step\)', m)]


def test_trial_judges_the_test_split_once_at_the_end(method, stream, domains):
  splits = domains['digits']
  trial = train.trial(method, stream, 3, splits, seed=4)
  logits = train.predictor(method)
  for split, accuracy in [
    ('test', trial.accuracy),
    ('validation', trial.records[-1]['validation_accuracy']),
  ]:
    predicted = logits(trial.state, splits[split].images).argmax(-1)
    np.testing.assert_allclose(accuracy, np.mean(predicted == splits[split].labels))
  assert len(trial.logits) == len(splits['test'])
  assert trial.seconds == trial.records[-1]['seconds'] > 0


def test_what_is_best_by_infomax_knows_no_label(method, stream, domains, tmp_path):
  splits, kept = dict(domains['digits']), []
  for sign, name in ((1, 'true'), (-1, 'shuffled')):
    labels = splits['validation'].labels[::sign]
    splits['validation'] = dataclasses.replace(splits['validation'], labels=labels)
    run = Run.open(tmp_path / name, {}, resume=False)
    options = {'run': run, 'every': 1, 'best': 'validation_infomax'}
    records = train.trial(method, stream, 4, splits, seed=4, **options).records
    infomax = [r['validation_infomax'] for r in records]
    with Checkpoints(run.checkpoints('train-4')) as checkpoints:
      assert checkpoints.best_step() == 1 + np.argmax(infomax)
    kept.append(infomax)
  assert kept[0] == kept[1]


def test_trial_without_a_test_split_judges_the_validation(method, stream, domains):
  splits = {'validation': domains['digits']['validation']}
  trial = train.trial(method, stream, 2, splits, seed=0)
  assert trial.accuracy == trial.records[-1]['validation_accuracy']


def test_compare_starts_a_plan_from_the_same_seeds_earlier_one(
  model, method, stream, domains, raw
):
  splits = {'validation': domains['digits']['validation']}
  still = plain.method(model, optax.sgd(0.0))  # its parameters are where it started
  named = {
    'first': train.Plan(method, stream),
    'second': train.Plan(still, stream, 'first'),
  }
  trials = train.compare({seed: named for seed in (0, 1)}, 2, splits)
  first, second = (
    [raw(trial.state.params) for trial in trials[name]] for name in ('first', 'second')
  )
  assert first == second and first[0] != first[1]
  states = [trial.state.params for both in trials.values() for trial in both]
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(states))


def test_compare_takes_the_same_steps_of_each_plans_own_batches(
  model, method, stream, domains, raw, tmp_path
):
  """By seed and name; pretrained variables and None start where `trial` starts."""
  splits = {'validation': domains['digits']['validation']}
  seen = []

  def told(name, seed):
    def batch(step):
      seen.append((name, seed, step))
      return stream(step)

    return batch

  still = plain.method(model, optax.sgd(0.0))
  pretrained = method.init(jax.random.key(9), None, stream(0)).variables
  starts = {'scratch': None, 'tuned': pretrained}
  plans = {
    seed: {n: train.Plan(still, told(n, seed), start) for n, start in starts.items()}
    for seed in (4, 5)
  }
  run = Run.open(tmp_path, {}, resume=False)
  trials = train.compare(plans, 3, splits, run)
  steps = [s for s in seen if s[2] > 0]
  assert steps == [(n, seed, s) for seed in (4, 5) for n in starts for s in (1, 2)]
  assert list(trials) == list(starts)
  assert [len(seeds) for seeds in trials.values()] == [2, 2]
  names = [f'{name}-{seed}' for seed in (4, 5) for name in starts]
  assert [r['run'] for r in run.records() if r['step'] == 3] == names
  assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == set(names)
  for trial, seed in zip(trials['scratch'], (4, 5), strict=True):
    fresh = still.init(jax.random.key(seed), None, stream(0))
    # Of batches on eight devices and on none, which are two programs: each may round.
    chex.assert_trees_all_close(trial.state.params, fresh.params, rtol=1e-6)
    assert int(trial.state.step) == 3
  for trial in trials['tuned']:
    assert raw(trial.state.params) == raw(pretrained['params'])


SCRIPT = """
import dataclasses, sys, time
import jax, numpy as np, optax
from experiments import cli
from tljax import data, models, train
from tljax.data import batches
from tljax.finetuning import plain

@dataclasses.dataclass(kw_only=True)
class Flags(cli.Flags):
  pause: float = 0.0

def say(line):
  print(line, flush=True)

def job(flags):
  say('started')
  time.sleep(flags.pause)
  run = flags.open_run()
  digits = data.load('digits', data.Transform(16))['train']
  stream = batches.stream(digits, 8, flags.seed)
  method = plain.method(models.create('cnn', 10), optax.adam(1e-3))
  def announced(step):
    say(step)
    time.sleep(0.01)
    return stream(step)
  state = method.init(jax.random.key(flags.seed), None, stream(0))
  state, _ = train.fit(method, state, announced, 40, every=4, run=run)
  leaves = jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng)))
  np.savez(run.folder / 'last.npz', *leaves)

cli.main(job, Flags)
"""


class Job:
  """A training of 40 steps, recorded and saved every 4, in a process of its own."""

  def __init__(self, out, *flags):
    # One device, as a user has.
    xla_flags = os.environ['XLA_FLAGS'].replace('=8', '=1')
    environment = {**os.environ, 'XLA_FLAGS': xla_flags, 'PYTHONPATH': str(ROOT)}
    self._process = subprocess.Popen(
      [sys.executable, '-c', SCRIPT, '--out', str(out), '--resume', *flags],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )

  def stop(self, line, number, delay=0.0):
    """Sends the signal a while after the job printed the line; what it then gave."""
    for printed in self._process.stdout:
      if printed.strip() == str(line):
        break
    try:
      self._process.wait(delay)
    except subprocess.TimeoutExpired:
      self._process.send_signal(number)
    return self.end()

  def end(self):
    _, errors = self._process.communicate(timeout=120)
    return self._process.returncode, errors


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The last state of a job that was never cut short."""
  out = tmp_path_factory.mktemp('whole')
  status, errors = Job(out).end()
  assert status == 0, errors
  return outcome(out)


def outcome(out):
  with np.load(out / 'last.npz') as leaves:
    return {name: leaves[name].tobytes() for name in leaves}


def assert_as_if_never_stopped(out, whole):
  status, errors = Job(out).end()
  assert status == 0, errors
  assert outcome(out) == whole
  steps = [r['step'] for r in Run(out).records()]
  assert steps == list(range(4, 41, 4))


def test_killed_again_and_again_it_ends_as_if_never_stopped(tmp_path, whole):
  """Before the first step, within the first, at saves, and at random."""
  delays = random.Random(0)
  for line in ('started', 0, 8, 13, 25):
    delay = delays.uniform(0, 0.03)
    status, errors = Job(tmp_path).stop(line, signal.SIGKILL, delay)
    assert status == -signal.SIGKILL, errors
  assert_as_if_never_stopped(tmp_path, whole)


STATUS = {signal.SIGINT: 130, signal.SIGTERM: 75}


@pytest.mark.parametrize(
  ('number', 'line'), [(signal.SIGINT, 14), (signal.SIGTERM, 22)], ids=['int', 'term']
)
def test_interrupted_it_saves_and_says_so(tmp_path, whole, number, line):
  status, errors = Job(tmp_path).stop(line, number)
  assert status == STATUS[number], errors
  last = errors.strip().split('\n')
  assert 'what was done is saved' in last[-1] and 'Traceback' not in errors
  with Checkpoints(Run(tmp_path).checkpoints('train')) as checkpoints:
    assert line < checkpoints.latest_step() <= line + 3  # no record is due there
  assert_as_if_never_stopped(tmp_path, whole)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=['int', 'term'])
def test_interrupted_outside_of_training(tmp_path, number):
  status, errors = Job(tmp_path, '--pause', '60').stop('started', number, 0.1)
  assert status == STATUS[number] and 'Traceback' not in errors, (status, errors)
