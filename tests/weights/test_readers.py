"""Every format: which reader, hostile safetensors and npz, bytes changed at random."""

import collections
import io
import json
import resource
import signal
import struct
import zipfile

import h5py
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from flax import serialization

from tests.weights import test_torch_files as torch_files
from tljax.errors import InputError
from tljax.weights import readers

VALUES = np.arange(24, dtype=np.float32).reshape(3, 4, 2)


def refused(path, match):
  """Asserts that a file is refused in one line that names it."""
  with pytest.raises(InputError, match=match) as error:
    dict(readers.read(path))
  assert '\n' not in str(error.value) and str(path) in str(error.value)


# safetensors.


def make_safetensors(path, header, data=VALUES.tobytes()):
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(header)) + header + data)
  return path


def entry(dtype='F32', shape=VALUES.shape, offsets=(0, 96)):
  return {'dtype': dtype, 'shape': shape, 'data_offsets': offsets}


def test_reads_safetensors(tmp_path):
  path = make_safetensors(
    tmp_path / 'a.safetensors', {'w': entry(), '__metadata__': {'format': 'pt'}}
  )
  tensors = readers.read(path)
  assert set(tensors) == {'w'}
  np.testing.assert_array_equal(tensors['w'], VALUES, strict=True)


def test_reads_every_type_of_safetensors(tmp_path):
  import ml_dtypes

  path = tmp_path / 'a.safetensors'
  for dtype in ('float16', 'float64', 'int64', 'uint8', 'bool', ml_dtypes.bfloat16):
    value = np.ones((2, 3), dtype)
    safetensors.numpy.save_file({'w': value}, path)
    np.testing.assert_array_equal(readers.read(path)['w'], value, strict=True)


@pytest.mark.parametrize(
  'header, data',
  [
    ({'w': entry(offsets=(0, 100))}, VALUES.tobytes()),
    ({'w': entry(offsets=(0, 92))}, VALUES.tobytes()),
    ({'w': entry(offsets=(96, 0))}, VALUES.tobytes()),
    ({'w': entry(offsets=(-96, 0))}, VALUES.tobytes()),
    ({'w': entry(shape=(3, 4, 3))}, VALUES.tobytes()),
    ({'w': entry(shape=(1 << 62, 1 << 62))}, VALUES.tobytes()),
    ({'w': entry(shape=(-3, -4, 2))}, VALUES.tobytes()),
    ({'w': entry(dtype='OBJECT')}, VALUES.tobytes()),
    ({'w': entry(), 'x': entry()}, VALUES.tobytes()),  # the same bytes twice
    ({'w': entry()}, VALUES.tobytes() + b'more'),
    ({'w': entry()}, VALUES.tobytes()[:-1]),
    ({'w': entry()}, b''),
    ({'w': 5}, VALUES.tobytes()),
    (b'{', b''),
    (b'[' * 100_000, b''),
    (b'{"w": ' * 100_000, b''),
    (b'\xff' * 99, b''),
    (b'', b''),
  ],
)
def test_hostile_safetensors(tmp_path, header, data):
  refused(make_safetensors(tmp_path / 'a.safetensors', header, data), 'damaged')


def test_a_safetensors_header_that_is_too_long(tmp_path):
  path = tmp_path / 'a.safetensors'
  for length in (100, 1 << 40, (1 << 64) - 1):
    path.write_bytes(struct.pack('<Q', length) + b'{}')
    refused(path, 'damaged')


# npz.


def npy(value, **header):
  """An array as .npy, its header perhaps forged."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file,
    {'descr': value.dtype.str, 'fortran_order': False, 'shape': value.shape} | header,
  )
  return file.getvalue() + value.tobytes()


def make_npz(path, entries, method=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', method) as archive:
    for name, content in entries.items():
      archive.writestr(zipfile.ZipInfo(name), content, method)
  return path


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_reads_npz(tmp_path, save):
  path = tmp_path / 'a.npz'
  save(path, **{'w': VALUES, 'a/b': VALUES.T, 'scalar': np.float64(3)})
  tensors = readers.read(path)
  assert set(tensors) == {'w', 'a/b', 'scalar'}
  np.testing.assert_array_equal(tensors['w'], VALUES, strict=True)
  np.testing.assert_array_equal(tensors['a/b'], VALUES.T, strict=True)
  assert tensors['scalar'] == 3


OBJECTS = np.lib.format.magic(1, 0) + b'\x46\x00'
OBJECTS += b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69) + b'\n'


@pytest.mark.parametrize(
  'content, named',
  [
    (npy(VALUES, shape=(3, 4, 3)), 'not of the size'),
    (npy(VALUES, shape=(3, 4, 1)), 'not of the size'),
    (npy(VALUES, shape=(1 << 40,)), 'not of the size'),
    (npy(VALUES, shape=(-3, -8)), 'not of the size|damaged'),
    (npy(VALUES, shape=(1 << 62, 0)), 'damaged'),
    (npy(VALUES, descr='<f8'), 'not of the size'),
    (npy(VALUES, descr='|O'), 'Python objects'),
    (npy(VALUES, descr=[('a', '|O')]), 'Python objects'),
    (npy(VALUES, descr='nonsense'), 'damaged'),
    (npy(VALUES, extra=1), 'damaged'),
    (npy(VALUES)[:-1], 'not of the size'),
    (npy(VALUES)[:20], 'damaged'),
    (b'', 'damaged'),
    (b'garbage', 'damaged'),
    (b'\x93NUMPY\x03\x00' + npy(VALUES)[8:], 'damaged'),
    (b'\x93NUMPY\x02\x00\xff\xff\xff\xff', 'damaged'),
    (OBJECTS + b'cos\nsystem\n(S"touch evil"\ntR.', 'Python objects'),
  ],
)
def test_hostile_npz(tmp_path, monkeypatch, content, named):
  monkeypatch.chdir(tmp_path)
  refused(make_npz(tmp_path / 'a.npz', {'w.npy': content}), named)
  assert not (tmp_path / 'evil').exists()


def test_npz_archives_that_lie(tmp_path):
  path = tmp_path / 'a.npz'
  good = npy(VALUES)
  for name in ('../w.npy', '/etc/w.npy', 'a\\..\\..\\w.npy', 'C:\\w.npy'):
    refused(make_npz(path, {name: good}), 'points outside')
  refused(make_npz(path, {'w': good, 'w.npy': good}), "two tensors are named 'w'")
  refused(make_npz(path, {'w.npy': good}, zipfile.ZIP_LZMA), 'compressed')
  zeros = npy(np.zeros(1 << 25, np.float32))
  refused(make_npz(path, {'w.npy': zeros}, zipfile.ZIP_DEFLATED), 'claim to hold')
  whole = make_npz(path, {'w.npy': good}).read_bytes()
  changed = bytearray(whole)
  changed[whole.index(VALUES.tobytes()) + 5] ^= 1
  path.write_bytes(changed)
  refused(path, 'CRC')


# Every format.


def save_npz(path):
  np.savez(path, w=VALUES, b=VALUES[0])


def save_npz_compressed(path):
  np.savez_compressed(path, w=VALUES, b=VALUES[0])


def save_safetensors(path):
  safetensors.numpy.save_file({'w': VALUES, 'b': VALUES[0]}, path)


def save_msgpack(path):
  path.write_bytes(serialization.to_bytes({'a': {'w': VALUES}, 'b': VALUES[0], 'i': 3}))


def save_msgpack_in_parts(path):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(serialization, 'MAX_CHUNK_SIZE', 40)
    save_msgpack(path)


# The strings in these have fixed lengths: HDF5 itself believes any length, up to 4 GiB,
# that is forged in an attribute of another.
def save_keras(path):
  with h5py.File(path, 'w') as file:
    file['layers/dense/vars/0'] = VALUES
    file['layers/dense/vars/1'] = VALUES[0]
    file['layers/dense/vars'].attrs['name'] = np.bytes_('fc')


def save_keras_2(path):
  with h5py.File(path, 'w') as file:
    file.attrs['layer_names'] = np.array([b'fc'])
    group = file.create_group('fc')
    group.attrs['weight_names'] = np.array([b'fc/kernel:0', b'fc/bias:0'])
    kernel = group.create_dataset('fc/kernel:0', (64, 64), 'f4', compression='gzip')
    kernel[:] = np.arange(4096).reshape(64, 64)
    group['fc/bias:0'] = VALUES[0]


def save_keras_archive(path):
  save_keras(path.with_suffix('.h5'))
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('config.json', '{"config": {}}')
    archive.write(path.with_suffix('.h5'), 'model.weights.h5')


def save_pth(path):
  torch_files.make_zip(path, {'state_dict': {'w': torch_files.tensor()}})


def save_stream(path):
  torch_files.make_stream(path, {'state_dict': {'w': torch_files.tensor()}})


SAVERS = pytest.mark.parametrize(
  'save, suffix',
  [
    (save_npz, '.npz'),
    (save_npz_compressed, '.npz'),
    (save_safetensors, '.safetensors'),
    (save_pth, '.pth'),
    (save_stream, '.th'),
    (save_msgpack, '.msgpack'),
    (save_msgpack_in_parts, '.msgpack'),
    (save_keras, '.h5'),
    (save_keras_2, '.hdf5'),
    (save_keras_archive, '.keras'),
  ],
)


@SAVERS
def test_truncated_files_of_every_format(tmp_path, save, suffix):
  path = tmp_path / f'a{suffix}'
  save(path)
  assert dict(readers.read(path))
  whole = path.read_bytes()
  for length in (0, 1, 7, 8, 64, len(whole) // 3, len(whole) - 97, len(whole) - 1):
    path.write_bytes(whole[:length])
    refused(path, 'damaged')


@SAVERS
def test_files_of_another_format(tmp_path, save, suffix):
  save(tmp_path / f'a{suffix}')
  content = (tmp_path / f'a{suffix}').read_bytes()
  for other in ('.npz', '.safetensors', '.pth', '.msgpack', '.h5', '.keras'):
    if (suffix, other) in ((suffix, suffix), ('.th', '.pth'), ('.hdf5', '.h5')):
      continue
    path = tmp_path / f'b{other}'
    path.write_bytes(content)
    refused(path, 'damaged|no state_dict needs')


def mutate(whole, rng):
  """Bytes changed, cut out, put in twice, or cut off."""
  changed = bytearray(whole)
  kind = rng.integers(8)
  at, length = rng.integers(len(whole)), int(rng.integers(1, 40))
  if kind == 0:
    del changed[at : at + length]
  elif kind == 1:
    changed[at:at] = changed[at : at + length]
  elif kind == 2:
    del changed[at:]
  elif kind == 3:
    changed[at : at + 8] = b'\xff' * 8
  else:
    for _ in range(rng.integers(1, 4)):
      changed[rng.integers(len(whole))] = rng.integers(256)
  return bytes(changed)


def fuzz(path, trials, seed):
  """Reads mutations of a file; an InputError of one line or arrays must come of it."""

  def late(*_):
    raise AssertionError('it hangs')

  whole, rng = path.read_bytes(), np.random.default_rng(seed)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
  outcomes = collections.Counter()
  signal.signal(signal.SIGALRM, late)
  for _ in range(trials):
    path.unlink()  # another file: the last may still be open
    path.write_bytes(mutate(whole, rng))
    signal.alarm(10)
    try:
      for value in readers.read(path).values():
        assert isinstance(value, np.ndarray) and value.nbytes < 65 << 20
      outcomes['read'] += 1
    except InputError as error:
      assert '\n' not in str(error) and len(str(error)) < 600
      outcomes['refused'] += 1
    finally:
      signal.alarm(0)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
  assert after - before < 200 << 20
  assert min(outcomes['read'], outcomes['refused']) > trials / 50, outcomes


@SAVERS
def test_bytes_changed_at_random(tmp_path, save, suffix):
  save(tmp_path / f'a{suffix}')
  fuzz(tmp_path / f'a{suffix}', 300, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(1, 3))
@SAVERS
def test_more_bytes_changed_at_random(tmp_path, save, suffix, seed):
  save(tmp_path / f'a{suffix}')
  fuzz(tmp_path / f'a{suffix}', 3000, seed)


# orbax leaves reads that fail after the first to themselves.
@pytest.mark.filterwarnings('ignore:Exception ignored in')
def test_bytes_of_a_checkpoint_changed_at_random(tmp_path):
  folder = tmp_path / 'checkpoint'
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave({'w': VALUES, 'b': VALUES[0]}))
  rng = np.random.default_rng(0)
  for path in sorted(p for p in folder.rglob('*') if p.stat().st_size and p.is_file()):
    whole = path.read_bytes()
    for _ in range(15):
      path.write_bytes(mutate(whole, rng))
      try:
        for value in readers.read(folder).values():
          assert isinstance(value, np.ndarray) and value.nbytes < 65 << 20
      except InputError as error:
        assert '\n' not in str(error) and len(str(error)) < 600
    path.write_bytes(whole)
