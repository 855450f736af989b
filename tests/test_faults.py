"""What goes wrong on a cluster: full disks, torn files, NaNs, full memory, two at once.

A save that is killed is in test_train.py, a process that dies in test_processes.py.
"""

import importlib
import os
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import train
from tljax.checkpoint import Checkpoints
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.method import TrainState
from tljax.run import Run


def state(value, size=200):
  params = {
    'backbone': {'w': jnp.full((size, size), value) + jnp.arange(1.0 * size)[None]},
    'head': {'b': jnp.full(4, value)},
  }
  memory = optax.adam(1e-3).init(params)
  return TrainState(jnp.int32(value), jax.random.key(int(value)), params, {}, memory)


@pytest.fixture
def folder(tmp_path):
  """Checkpoints of steps 1 and 2."""
  with Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state(step))
  return tmp_path


@pytest.fixture
def full_disk():
  """No file can grow past 2 kB: the kernel refuses, as it does where a disk is full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_checkpoint_before(folder, full_disk, raw):
  with pytest.raises(InputError, match='cannot save .*File too large.*make room'):
    with Checkpoints(folder) as checkpoints:
      checkpoints.save(3, state(3))
  with Checkpoints(folder) as checkpoints:
    assert checkpoints.latest_step() == 2
    assert raw(checkpoints.restore(state(0))) == raw(state(2))


def test_a_truncated_checkpoint_gives_way_to_the_one_before(folder, raw, capsys):
  files = [path for path in (folder / '2').rglob('*') if path.is_file()]
  os.truncate(max(files, key=lambda path: path.stat().st_size), 50)
  with Checkpoints(folder) as checkpoints:
    assert raw(checkpoints.restore(state(0))) == raw(state(1))
    checkpoints.save(2, state(5))
  said = capsys.readouterr().err
  assert f'step 2 cannot be read and is now {folder / "unreadable-2"}' in said
  with Checkpoints(folder) as checkpoints:
    assert raw(checkpoints.restore(state(0))) == raw(state(5))


def test_a_state_of_another_model_costs_no_checkpoint(folder):
  with Checkpoints(folder) as checkpoints:
    with pytest.raises(InputError, match='no checkpoint that fits: step 2: .*step 1: '):
      checkpoints.restore({'other': jnp.zeros(3)})
    assert checkpoints.latest_step() == 2


@pytest.mark.parametrize('part', [('params', 'backbone'), ('params',), ('step',)])
def test_a_part_is_restored_alone(folder, part, raw):
  """Such as the backbone, or all that an evaluation wants: no optimiser state."""
  like = wanted = {name: getattr(state(2), name) for name in ('params', 'step')}
  like = {part[0]: wanted[part[0]]}
  if len(part) > 1:
    like = {part[0]: {part[1]: wanted[part[0]][part[1]]}}
  with Checkpoints(folder) as checkpoints:
    found = checkpoints.restore_part(jax.eval_shape(lambda: like))
  assert raw(found) == raw(like)


@pytest.fixture
def fit(model, family_batches, one_device):
  """Returns `(run, steps, optimizer, change, **options)`, which trains a tiny model."""
  stream = family_batches['finetuning']

  def fit(run, steps, optimizer=None, change=lambda step: step, **options):
    method = plain.method(model, optimizer or optax.sgd(0.1))
    method = method._replace(step=change(method.step))
    begin = method.init(jax.random.key(0), None, stream(0))
    options = {'every': 2, 'run': run, 'mesh': one_device, **options}
    return train.fit(method, begin, stream, steps, **options)

  return fit


def test_an_update_that_is_not_finite_is_not_saved(fit, tmp_path):
  """Though the step's loss was: the next would be the first to show it."""

  def rates(count):
    return jnp.where(count == 3, jnp.inf, 0.1)

  run = Run.open(tmp_path, {}, resume=False)
  with pytest.raises(InputError, match='step 4 left parameters .* not finite'):
    fit(run, 8, optax.sgd(rates))
  with Checkpoints(run.checkpoints('train')) as checkpoints:
    assert checkpoints.latest_step() == 2


def test_a_full_memory_names_its_mends(fit):
  def exhausted(step):
    def full(*_):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating')

    def stepped(state, batch):
      jax.debug.callback(full)
      return step(state, batch)

    return stepped

  with pytest.raises(InputError, match='memory is full.*--batch-size.*--remat.*fsdp'):
    fit(None, 2, change=exhausted)


HOLDER = """
import sys
from tljax.run import Run
Run.open(sys.argv[1], {}, resume=True)
print('open', flush=True)
sys.stdin.read()
"""


def test_two_runs_in_one_folder(tmp_path):
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
  command = [sys.executable, '-c', HOLDER, str(tmp_path)]
  with subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': '.'}, **pipes) as one:
    try:
      assert one.stdout.readline() == 'open\n'
      with pytest.raises(InputError, match='another process is at work'):
        Run.open(tmp_path, {}, resume=True)
    finally:
      one.kill()
  Run.open(tmp_path, {}, resume=True)  # however the other ended
  Run.open(tmp_path, {}, resume=True)  # one process may look at its own folder


def test_what_is_watched(fit, tmp_path, capsys, monkeypatch):
  """Scalars and a trace for TensorBoard, and where the time went."""
  monkeypatch.setattr('tljax.watch._LONG', 0.0)
  run = Run.open(tmp_path, {}, resume=False)
  _, records = fit(run, 4, profile=(1, 3))
  (trace,) = (tmp_path / 'profile' / 'train').rglob('*.xplane.pb')
  assert trace.stat().st_size > 0
  (events,) = (tmp_path / 'tensorboard' / 'train').iterdir()
  assert events.stat().st_size > 0
  said = capsys.readouterr().err
  assert '4 steps in' in said and 'MiB' in said
  assert all(f'{kind} ' in said for kind in ('input', 'step', 'evaluation', 'save'))
  seen = [v for e in scalars(events.read_bytes()) for v in e.summary.value]
  losses = [v.simple_value for v in seen if v.tag == 'loss']
  np.testing.assert_allclose(losses, [r['loss'] for r in records], rtol=1e-6)


def scalars(data):
  """The events in a file of TensorBoard's: length, checksum, event, checksum."""
  events = importlib.import_module('tensorboardX.proto.event_pb2')
  while data:
    size = int.from_bytes(data[:8], 'little')
    yield events.Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]
