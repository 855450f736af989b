"""Flax' and orbax' files against Flax and orbax; hostile files."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from tests.weights.checks import assert_equal, refused
from tljax.errors import InputError
from tljax.weights import lazy, readers

# orbax, on a busy machine, calls back into an event loop that it has closed.
pytestmark = pytest.mark.filterwarnings(
  'ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning'
)
VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture(scope='module')
def state():
  """What a training saves: parameters, statistics, an optimiser's tuples, numbers."""
  rng = np.random.default_rng(0)
  params = {
    'conv': {'kernel': rng.random((3, 3, 2, 4), np.float32), 'bias': np.ones(4)},
    'block': {'dense': {'kernel': jnp.full((4, 3), 0.1, jnp.bfloat16)}},
    'scale': np.array(0.3, np.float32),
    'half': np.ones((5, 3), np.float16),
  }
  return {
    'params': params,
    'batch_stats': {'norm': {'mean': rng.random(4), 'count': np.arange(3)}},
    'opt_state': optax.adamw(0.1).init({'w': jnp.ones(5)}),
    'step': 3,
  }


@pytest.fixture(scope='module')
def arrays(state):
  """Of it, by name."""
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  names = [jax.tree_util.keystr(p, simple=True, separator='/') for p, _ in leaves]
  return dict(zip(names, (np.asarray(leaf) for _, leaf in leaves), strict=True))


# Flax.


def test_reads_what_flax_writes(state, arrays, tmp_path):
  path = tmp_path / 'state.msgpack'
  path.write_bytes(serialization.to_bytes(state))
  assert_equal(readers.read(path), {k: v for k, v in arrays.items() if k != 'step'})


def test_reads_the_variables_of_a_module(tmp_path):
  variables = nn.BatchNorm(use_running_average=True).init(
    jax.random.key(0), jnp.ones((2, 3))
  )
  path = tmp_path / 'variables.msgpack'
  path.write_bytes(serialization.to_bytes(variables))
  assert set(readers.read(path)) == {
    *('params/scale', 'params/bias', 'batch_stats/mean', 'batch_stats/var')
  }


@pytest.mark.parametrize('chunk', [4, 8, 40, 1 << 30])
def test_reads_arrays_in_parts(state, arrays, tmp_path, monkeypatch, chunk):
  monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', chunk)
  content = serialization.to_bytes(state)
  assert (b'chunked' in content) == (chunk < 1 << 30)
  path = tmp_path / 'state.msgpack'
  path.write_bytes(content)
  assert_equal(readers.read(path), {k: v for k, v in arrays.items() if k != 'step'})


def test_passes_over_all_that_is_no_array(tmp_path):
  values = [None, True, False, 0, -1, 1.5, 'x', b'x', [], {}, [{'a': [1, {'b': 2}]}]]
  values += [s * 2**e for s in (1, -1) for e in (7, 8, 15, 16, 31, 32, 62)] + [2**63]
  for size in (31, 32, 255, 256, 65535, 65536):
    values += ['x' * size, b'x' * size, [None] * size, {f'{i}': 0 for i in range(size)}]
  values += [msgpack.ExtType(5, bytes(n)) for n in (0, 1, 2, 3, 4, 8, 16, 300, 1 << 17)]
  array = serialization._ndarray_to_bytes(VALUES)
  content = {'values': values, 'w': msgpack.ExtType(1, array)}
  content |= {f'v{i}': value for i, value in enumerate(values)}
  path = tmp_path / 'state.msgpack'
  path.write_bytes(msgpack.packb(content))
  assert_equal(readers.read(path), {'w': VALUES})


@pytest.mark.parametrize('shape', [(1,), (2,), (64,), (300,), (70000,)])
def test_reads_extensions_of_every_length(tmp_path, shape):
  values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
  path = tmp_path / 'state.msgpack'
  path.write_bytes(serialization.to_bytes({'w': values}))
  assert_equal(readers.read(path), {'w': values})


def array(shape, dtype, data):
  return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'garbage',
    msgpack.packb([1, 2]),
    msgpack.packb(array((3,), 'float32', bytes(12))),
    msgpack.packb({}),
    msgpack.packb({'w': 1, 'x': {'y': 'z'}}),
    msgpack.packb({'w': msgpack.ExtType(7, b'x')}),
    msgpack.packb({'w': array((3,), 'float32', bytes(12))}) + b'x',
    msgpack.packb({'w': array((3,), 'float32', bytes(11))}),
    msgpack.packb({'w': array((4,), 'float32', bytes(12))}),
    msgpack.packb({'w': array((1 << 40,), 'float32', bytes(12))}),
    msgpack.packb({'w': array((3,), 'object', bytes(24))}),
    msgpack.packb({'w': array((3,), 'O', bytes(24))}),
    msgpack.packb({'w': array((3,), 'nonsense', bytes(24))}),
    msgpack.packb({'w': array((3,), 5, bytes(24))}),
    msgpack.packb({'w': array('x', 'float32', bytes(12))}),
    msgpack.packb({'w': array((3,), 'float32', [1])}),
    msgpack.packb({'w': msgpack.ExtType(1, b'')}),
    msgpack.packb({'w': msgpack.ExtType(1, b'\xc1')}),
    msgpack.packb({'w': msgpack.ExtType(1, b'\xdd\xff\xff\xff\xff')}),
    msgpack.packb({1: array((3,), 'float32', bytes(12))}),
    msgpack.packb({b'w': array((3,), 'float32', bytes(12))}),
    msgpack.packb({'a': {'b': array((0,), 'f4', b'')}, 'a/b': array((0,), 'f4', b'')}),
    b'\x82' + msgpack.packb({'w': array((0,), 'f4', b'')})[1:] * 2,
    b'\xdf\xff\xff\xff\xff',
    b'\x81\xa1w\xc9\xff\xff\xff\xff\x01',
    b'\x81\xa1w\xdd\xff\xff\xff\xff',
    b'\x81\xdb\xff\xff\xff\xffw',
    b'\x81\xa1\xff\xc0',
    b'\x81\xa1w\xc1',
    b'\x81\xa1w' * 100_000,
    b'\x81\xa1w' + b'\x91' * 1_000_000,
    b'\xdd\xff\xff\xff\xff' * 100_000,
  ],
)
def test_hostile_files(tmp_path, content):
  path = tmp_path / 'state.msgpack'
  path.write_bytes(content)
  refused(path, 'damaged')


@pytest.mark.parametrize(
  'change',
  [
    {'shape': {'0': 5, '1': 5}},
    {'shape': 5},
    {'shape': None},
    {'chunks': {}},
    {'chunks': {'0': 5}},
    {'chunks': {'0': None}},
    {'chunks': {'x': 5}},
    {'chunks': {'1': 5}},
    {'chunks': [1, 2]},
    {'chunks': 'x' * 24},
  ],
)
def test_hostile_parts(tmp_path, monkeypatch, change):
  monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', 20)
  whole = msgpack.unpackb(serialization.to_bytes({'w': VALUES}))
  whole['w'] |= change
  path = tmp_path / 'state.msgpack'
  path.write_bytes(msgpack.packb(whole))
  refused(path, 'damaged')


def test_truncated_files(state, tmp_path):
  path = tmp_path / 'state.msgpack'
  whole = serialization.to_bytes(state)
  for length in (0, 1, 9, 50, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    refused(path, 'damaged')


def test_a_file_that_ends_within_its_last_array(tmp_path):
  path = tmp_path / 'state.msgpack'
  path.write_bytes(serialization.to_bytes({'w': VALUES})[:-1])
  with pytest.raises(InputError, match='damaged'):
    readers.read(path)  # at once


# orbax.


def save_standard(folder, state):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, state)
  return folder


def save_tree(folder, state, **options):
  handler = ocp.PyTreeCheckpointHandler(**options)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(state))
  return folder


def save_tree_by_file(folder, state):
  return save_tree(folder, state, use_ocdbt=False)


def save_step(folder, state):
  with ocp.CheckpointManager(folder) as manager:
    manager.save(7, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()
  return folder / '7'


SAVERS = pytest.mark.parametrize(
  'save', [save_standard, save_tree, save_tree_by_file, save_step]
)


@SAVERS
def test_reads_what_orbax_writes(state, arrays, tmp_path, save):
  folder = save(tmp_path / 'checkpoint', state)
  assert_equal(readers.read(folder), arrays)


def test_reads_a_relative_path(tmp_path, monkeypatch):
  save_standard(tmp_path / 'checkpoint', {'w': VALUES})
  monkeypatch.chdir(tmp_path)
  assert_equal(readers.read('checkpoint'), {'w': VALUES})


def test_folders_that_are_no_checkpoints(tmp_path):
  refused(tmp_path, 'orbax checkpoint')
  save_step(tmp_path / 'manager', {'w': VALUES})
  refused(tmp_path / 'manager', 'orbax checkpoint')


def test_a_checkpoint_without_arrays(tmp_path):
  refused(save_tree(tmp_path / 'checkpoint', {'note': 'text'}), 'no arrays')


# orbax leaves reads that fail after the first to themselves.
@pytest.mark.filterwarnings('ignore:Exception ignored in')
@SAVERS
def test_damaged_checkpoints(tmp_path, save):
  folder = save(tmp_path / 'checkpoint', {'a': {'w': VALUES, 'b': VALUES[0]}})
  files = [p for p in folder.rglob('*') if p.is_file()]
  outcomes = set()
  for file in files:
    whole = file.read_bytes()
    for content in (b'', b'garbage' * 9, whole[: len(whole) // 2], None):
      file.unlink()
      if content is not None:
        file.write_bytes(content)
      try:
        ours = dict(readers.read(folder))
      except InputError as error:
        assert '\n' not in str(error) and str(folder) in str(error)
        outcomes.add('refused')
      else:
        assert_equal(ours, {'a/w': VALUES, 'a/b': VALUES[0]})
        outcomes.add('read')
      file.write_bytes(whole)
  assert outcomes == {'refused', 'read'}  # some files carry no weights


def test_a_checkpoint_that_claims_too_much(tmp_path):
  folder = save_tree_by_file(tmp_path / 'checkpoint', {'w': jnp.ones((4, 4))})
  (path,) = folder.rglob('.zarray')
  zarray = json.loads(path.read_text())
  for shape in ([1 << 16, 1 << 16], [1 << 40, 1 << 40]):
    path.write_text(json.dumps(zarray | {'shape': shape, 'fill_value': 0}))
    refused(folder, 'claim to hold')


@pytest.mark.parametrize('name', ['../../w', '/etc/w', 'a/../w'])
def test_names_do_not_lead_outside(tmp_path, name):
  folder = save_tree_by_file(tmp_path / 'checkpoint', {'w': VALUES})
  path = folder / '_METADATA'
  content = path.read_text()
  assert '"w"' in content
  path.write_text(content.replace('"w"', json.dumps(name)))
  refused(folder, 'points outside')


def test_the_size_check_leaves_zeros_alone(tmp_path):
  zeros = {'w': np.zeros(lazy._FREE // 8, np.float32)}
  assert_equal(readers.read(save_tree(tmp_path / 'checkpoint', zeros)), zeros)
