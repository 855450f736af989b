"""Two processes of two devices each, on loopback: launched twice, asked many things.

The first launch trains without a break, then is preempted in the middle of a second
training. The second launch ends that, and then loses a process.
"""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from experiments import cli
from experiments.trained import Trained
from tljax import processes, sharding, train
from tljax.adaptation import dann
from tljax.checkpoint import Checkpoints
from tljax.data import Transform
from tljax.errors import InputError
from tljax.extraction.features import extract
from tljax.inference import in_batches
from tljax.method import path_name
from tljax.models.base import Classifier, Linear, Spec
from tljax.run import Run

ROOT = pathlib.Path(__file__).parents[1]
STEPS, SLOW = 5, 20


class Backbone(nn.Module):
  """A batch norm, whose moments are of the whole batch, and a kernel to share."""

  @nn.compact
  def __call__(self, x, train=False):
    x = x.reshape(len(x), -1)
    x = nn.Dense(128, name='dense')(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name='norm')(x)
    return {'features': nn.relu(x)}


@dataclasses.dataclass(kw_only=True)
class Flags(cli.Flags):
  """What the processes do, one thing after the other."""

  batch_size: int = 16
  cut: bool = False
  """Preempt process 1 within the second training; otherwise kill it in a third."""
  idle: bool = False
  """Preempt it before any, as it loads data and the other waits for it."""


def model():
  spec = Spec(16, 16, (0.5,) * 3, (0.5,) * 3, ('dense',), feature_dim=128)
  return Classifier(Backbone(), Linear(10), spec)


@functools.cache  # what is compiled for it serves all trainings
def method():
  # SGD, as Adam makes much of the devices' rounding where gradients vanish.
  return dann.method(model(), optax.sgd(0.05, momentum=0.9), strength=0.1)


def batch(step):
  """This process's rows of the 16 of each domain."""
  rng = np.random.default_rng(step)
  index, share = jax.process_index(), 16 // jax.process_count()
  mine = slice(index * share, (index + 1) * share)
  images = rng.random((2, 16, 16, 16, 3), np.float32)[:, mine]
  labels = rng.integers(0, 10, 16, np.int32)[mine]
  return {
    'source': {'image': images[0], 'label': labels},
    'target': {'image': images[1]},
  }


def fit(name, steps, run=None, batches=batch, every=None, **options):
  mesh = options.setdefault('mesh', sharding.data_mesh())
  first = sharding.shard_batch(batch(0), mesh)
  state = train.begin(method(), jax.random.key(0), None, first, mesh)
  images = np.arange(11 * 16 * 16 * 3, dtype=np.uint8).reshape(11, 16, 16, 3)
  logits = train.predictor(method(), 8)

  def evaluate(state):
    return {'logit': float(logits(state, images).sum())}

  options = {'evaluate': evaluate, 'every': every or steps, 'name': name, **options}
  return train.fit(method(), state, batches, steps, run=run, **options)[0]


class Counted:
  """Images, not in memory as far as anyone can tell, which know who was looked at."""

  shape, ndim, dtype = (11, 16, 16, 3), 4, np.dtype(np.uint8)

  def __init__(self):
    self.seen = []

  def __len__(self):
    return 11

  def __getitem__(self, rows):
    self.seen += rows.tolist()
    return np.random.default_rng(0).integers(0, 256, self.shape, np.uint8)[rows]


def features(images):
  """Those of all images, at every process."""
  variables = model().init(jax.random.key(2), np.zeros((1, 16, 16, 3), np.float32))
  return extract(model(), jax.device_get(variables), images, batch_size=4)


def logits(images):
  """Those of a trained network, which each process has on a device of its own."""
  state = method().init(jax.random.key(3), None, batch(0))
  state = jax.device_put(state, jax.local_devices()[0])
  predict = functools.partial(method().predict, state)
  return Trained('', (), Transform(16), predict, ()).logits(images)


def look(folder):
  """Keeps what all processes see together."""
  images, double = Counted(), jax.jit(lambda x: 2 * x)
  np.save(folder / 'features.npy', features(images))
  mine = {0: [0, 1, 2, 3, 8, 9, 10], 1: [4, 5, 6, 7]}
  assert sorted(images.seen) == mine[jax.process_index()], images.seen
  np.save(folder / 'logits.npy', logits(images))
  # Devices of the processes in turn.
  mesh = jax.sharding.Mesh(np.array(jax.devices())[[2, 0, 3, 1]], ('data',))
  rows = np.arange(33, dtype=np.float32).reshape(11, 3)
  np.testing.assert_array_equal(in_batches(double, rows, 4, mesh), 2 * rows)


def job(flags):
  run = flags.open_run(without=('cut', 'idle'))
  mesh = flags.machine.options()['mesh']
  print('printed by', jax.process_index())
  if flags.idle:
    if jax.process_index() == 1:
      signal.raise_signal(signal.SIGTERM)
      for _ in range(600):
        time.sleep(0.1)
    processes.from_all('loaded')

  def disturbed(number, at):
    def slow(step):
      time.sleep(0.2)
      if step == at and jax.process_index() == 1:
        signal.raise_signal(number)
      return batch(step)

    return slow

  # Such a mesh that each process reads a part of its own of a checkpoint.
  torn = {'mesh': sharding.parse_mesh('fsdp=4'), 'every': 2}
  if flags.cut:
    look(run.folder)
    fit('whole', STEPS, run, mesh=mesh, every=2)
    fit('torn', 4, run, **torn)
    fit('slow', SLOW, run, mesh=mesh)
    fit('cut', SLOW, run, disturbed(signal.SIGTERM, 4), mesh=mesh)
  else:
    fit('torn', STEPS, run, **torn)
    fit('cut', SLOW, run, mesh=mesh)
    fit('killed', SLOW, run, disturbed(signal.SIGKILL, 4), mesh=mesh)


class Ended(NamedTuple):
  """How the two processes ended, after how many seconds, and what they said."""

  status: list[int]
  seconds: float
  out: list[str]
  err: list[str]


def launch(out, *flags):
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  environment = {
    **os.environ,
    'XLA_FLAGS': os.environ['XLA_FLAGS'].replace('=8', '=2'),
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'PYTHONPATH': str(ROOT),
  }
  command = [sys.executable, __file__, '--out', str(out), '--mesh', 'data=2,fsdp=2']
  command += ['--coordinator', f'127.0.0.1:{port}', '--processes', '2', *flags]
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  began = time.monotonic()
  jobs = [
    subprocess.Popen([*command, '--process-id', str(i)], env=environment, **pipes)
    for i in range(2)
  ]
  try:
    said = [one.communicate(timeout=180) for one in reversed(jobs)][::-1]
  finally:
    for one in jobs:
      one.kill()
  seconds = time.monotonic() - began
  return Ended(
    [one.returncode for one in jobs], seconds, *map(list, zip(*said, strict=True))
  )


@pytest.fixture(scope='module')
def out(tmp_path_factory):
  return tmp_path_factory.mktemp('processes') / 'run'


@pytest.fixture(scope='module')
def preempted(out):
  return launch(out, '--cut')


@pytest.fixture(scope='module')
def killed(out, preempted):
  step = out / 'checkpoints' / 'torn' / '4' / 'default'
  for path in (step / 'ocdbt.process_1' / 'd').iterdir():
    os.truncate(path, 50)  # what process 1 wrote, and alone reads
  return launch(out, '--resume')


def restored(out, name, devices):
  first = jax.tree.map(np.zeros_like, batch(0))
  mesh = sharding.parse_mesh(f'fsdp={devices}', jax.devices()[:devices])
  like = method().init(jax.random.key(1), None, first)
  like = sharding.put(like, sharding.of_state(like, mesh))
  with Checkpoints(out / 'checkpoints' / name) as checkpoints:
    return checkpoints.restore(like)


def test_the_backbone_alone_is_restored_on_one_device(out, preempted, raw):
  whole = restored(out, 'whole', 1).params['backbone']
  like = {'params': {'backbone': jax.eval_shape(lambda: whole)}}
  with Checkpoints(out / 'checkpoints' / 'whole') as checkpoints:
    found = checkpoints.restore_part(like)
  assert raw(found['params']['backbone']) == raw(whole)


def values(state):
  leaves = jax.tree_util.tree_flatten_with_path(state.replace(rng=()))[0]
  return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize('devices', [1, 2])
def test_saved_on_four_devices_it_is_as_trained_on_one(out, preempted, devices):
  """And is restored on one and on two, in another number of processes."""
  wanted = fit('here', STEPS, mesh=sharding.data_mesh(jax.devices()[:1]))
  assert 75 in preempted.status, preempted.err
  found = restored(out, 'whole', devices)
  for name, value in values(wanted).items():
    np.testing.assert_allclose(
      values(found)[name], value, rtol=1e-5, atol=1e-5, err_msg=name
    )
  kernel = found.params['backbone']['dense']['kernel']
  assert kernel.addressable_shards[0].data.size == kernel.size // devices


def test_one_process_is_preempted_and_both_save_the_same_step(out, preempted):
  assert preempted.status == [75, 75], preempted.err
  assert all('preempted' in err for err in preempted.err)
  assert not any('Traceback' in err for err in preempted.err)
  assert 'printed by 0' in preempted.out[0] and 'printed' not in preempted.out[1]


def test_the_first_alone_writes_records(out, preempted):
  records = Run(out).records()
  assert [r['step'] for r in records if r['run'] == 'whole'] == [2, 4, STEPS]
  scalars = {path.name for path in (out / 'tensorboard').iterdir()}
  assert scalars == {'whole', 'torn', 'slow'}
  config = json.loads((out / 'config.json').read_text())
  assert config == {'batch_size': 16, 'script': 'test_processes', 'seed': 0, 'seeds': 3}


@pytest.mark.parametrize('of', [features, logits])
def test_what_all_processes_see_together_is_what_one_does(out, preempted, of):
  assert preempted.status == [75, 75], preempted.err
  found, wanted = np.load(out / f'{of.__name__}.npy'), of(Counted())
  assert found.shape == (11, {features: 128, logits: 10}[of])
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_resumed_it_ends_bit_identical(out, preempted, killed, raw):
  cut, slow = (restored(out, name, 1) for name in ('cut', 'slow'))
  assert raw(cut) == raw(slow)
  records = Run(out).records()
  by_run = {n: [r for r in records if r['run'] == n] for n in ('cut', 'slow')}
  (cut,), (slow,) = by_run['cut'], by_run['slow']
  assert {**cut, 'seconds': 0, 'run': ''} == {**slow, 'seconds': 0, 'run': ''}


def test_torn_at_one_process_a_checkpoint_gives_way_at_both(out, killed):
  assert 'step 4 cannot be read' in killed.err[0], killed.err
  records = Run(out).records('torn')
  assert [record['step'] for record in records] == [2, 4, STEPS]
  found, wanted = (values(restored(out, name, 1)) for name in ('torn', 'whole'))
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_process_that_is_killed_brings_the_other_down(killed):
  assert killed.status[1] == -signal.SIGKILL
  assert killed.status[0] != 0 and killed.seconds < 90, killed
  # Ours, of an error in the midst of a collective, or of the heartbeats that fail.
  assert 'another process of the run died' in killed.err[0] or (
    'indicates that another task died' in killed.err[0]
  ), killed.err[0]


def test_preempted_outside_of_a_training_both_leave(tmp_path):
  ended = launch(tmp_path, '--idle')
  assert ended.status == [75, 75] and ended.seconds < 50, ended
  assert [err.count('preempted; what was done is saved') for err in ended.err] == [1, 1]
  assert not any('Traceback' in err for err in ended.err)


def test_one_process_needs_no_agreement():
  assert processes.is_first() and processes.from_first(lambda: [1]) == [1]


@pytest.mark.parametrize('given', [{'coordinator': 'x:1'}, {'process_id': 0}])
def test_half_of_the_flags_of_a_cluster(given, monkeypatch):
  def refuse(*_, **__):
    raise ValueError('Number of processes must be defined.')

  monkeypatch.setattr(jax.distributed, 'initialize', refuse)
  with pytest.raises(InputError, match='--coordinator, --processes and'):
    processes.start(**given)
  processes.start()  # on a laptop


if __name__ == '__main__':
  cli.main(job, Flags)
