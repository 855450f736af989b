"""Archives that lie, windows onto files, what becomes of exceptions; memory."""

import copy
import json
import pathlib
import subprocess
import sys
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests import oracles
from tljax import models
from tljax.errors import InputError
from tljax.weights import convert, lazy, writers


def archive(path, entries, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', compression) as file:
    for name, content in entries.items():
      file.writestr(zipfile.ZipInfo(name), content, compression)
  return zipfile.ZipFile(path)


# Tensors.


def test_tensors_are_read_when_asked_for(tmp_path):
  read = []
  loaders = {n: lambda n=n: read.append(n) or np.zeros(3) for n in 'abc'}
  tensors = lazy.Tensors(tmp_path / 'a', loaders)
  assert 'a' in tensors and 'd' not in tensors and len(tensors) == 3
  assert list(tensors) == ['a', 'b', 'c'] and not read
  tensors['b'], tensors['b']
  assert read == ['b', 'b']
  with pytest.raises(KeyError):
    tensors['d']


def test_an_error_on_reading_names_the_file(tmp_path):
  def fail():
    raise EOFError

  with pytest.raises(InputError, match='damaged or not a checkpoint .EOFError'):
    lazy.Tensors(tmp_path / 'a.pth', {'w': fail})['w']


# guard.


@pytest.mark.parametrize(
  'error, message',
  [
    (ValueError('two\nlines \t and  blanks'), 'damaged .*two lines and blanks.; fetch'),
    (ValueError(), 'ValueError'),
    (ValueError('\n'), 'ValueError'),
    (KeyError('a'), "damaged .*'a'"),
    (RecursionError('deep'), 'damaged .*deep'),
    (MemoryError(), 'MemoryError'),
    (UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'why'), 'damaged .*why'),
    (PermissionError(13, 'denied'), 'denied; make it readable'),
    (OSError(5, 'I/O'), 'damaged .*I/O'),
    (lazy.Refusal('of another kind;\nmend it'), 'of another kind; mend it$'),
    (InputError('said already'), '^said already$'),
  ],
)
def test_exceptions_become_one_line(tmp_path, error, message):
  path = tmp_path / 'a.h5'
  path.touch()
  with pytest.raises(InputError, match=message) as caught, lazy.guard(path):
    raise error
  assert '\n' not in str(caught.value)


def test_messages_are_short(tmp_path):
  with pytest.raises(InputError) as caught, lazy.guard(tmp_path / 'a.h5'):
    raise ValueError('x' * 100_000)
  assert len(str(caught.value)) < 500


def test_an_interrupt_is_no_damage(tmp_path):
  with pytest.raises(KeyboardInterrupt), lazy.guard(tmp_path / 'a.h5'):
    raise KeyboardInterrupt


def test_unreadable_files(tmp_path, monkeypatch):
  path = tmp_path / 'a.safetensors'
  safetensors.numpy.save_file({'w': np.zeros(3)}, path)
  path.chmod(0)
  with pytest.raises(InputError, match='make it readable'), lazy.guard(path):
    open(path).close()
    raise PermissionError(13, 'as root')  # whom no mode stops


# unique and check_size.


def test_names_are_unique():
  assert lazy.unique([('a', 1), ('b', 2)]) == {'a': 1, 'b': 2}
  with pytest.raises(ValueError, match="two tensors are named 'a'"):
    lazy.unique(iter([('a', 1), ('b', 2), ('a', 1)]))


def test_sizes():
  lazy.check_size(lazy._FREE, 0)
  lazy.check_size(lazy._FREE + 16 * 1000, 1000)
  with pytest.raises(ValueError, match='1000 bytes claim to hold'):
    lazy.check_size(lazy._FREE + 16 * 1000 + 1, 1000)


# Archives.


def test_honest_archives_pass(tmp_path):
  entries = {'a/b.npy': b'1' * 100, 'c': b'', 'a/': b'', '..c/..d..': b'x'}
  lazy.check_archive(archive(tmp_path / 'a.zip', entries), compressed=False)
  deflated = archive(tmp_path / 'b.zip', entries, zipfile.ZIP_DEFLATED)
  lazy.check_archive(deflated, compressed=True)
  with pytest.raises(ValueError, match='compressed'):
    lazy.check_archive(deflated, compressed=False)


@pytest.mark.parametrize(
  'name',
  ['../a', '/a', 'a/../../b', 'a/..', '..', '\\a', 'a\\..\\b', 'C:/a', 'C:a', ''],
)
def test_names_that_lead_outside(tmp_path, name):
  with pytest.raises(ValueError, match='points outside'):
    lazy.check_archive(archive(tmp_path / 'a.zip', {name: b'x'}), compressed=True)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path, method):
  with pytest.raises(ValueError, match='compressed'):
    lazy.check_archive(
      archive(tmp_path / 'a.zip', {'a': b'x' * 99}, method), compressed=True
    )


def test_a_bomb(tmp_path):
  bomb = archive(tmp_path / 'a.zip', {'a': bytes(1 << 27)}, zipfile.ZIP_DEFLATED)
  with pytest.raises(ValueError, match='claim to hold'):
    lazy.check_archive(bomb, compressed=True)


def test_a_bomb_of_overlapping_entries(tmp_path):
  path = tmp_path / 'a.zip'
  with archive(path, {'a': bytes(1 << 20)}) as file:
    (info,) = file.infolist()
    for i in range(1000):
      file.filelist.append(copy.copy(info))
      file.filelist[-1].filename = f'b{i}'
    with pytest.raises(ValueError, match='claim to hold'):
      lazy.check_archive(file, compressed=False)


@pytest.mark.parametrize(
  'change, named',
  [
    ({'flag_bits': 1}, 'encrypted'),
    ({'file_size': 10}, 'shorter than it says'),
    ({'file_size': 1 << 40, 'compress_size': 1 << 40}, 'beyond the file'),
    ({'header_offset': 1 << 40}, 'beyond the file'),
  ],
)
def test_entries_that_lie(tmp_path, change, named):
  with archive(tmp_path / 'a.zip', {'a': b'12345'}) as file:
    for name, value in change.items():
      setattr(file.infolist()[0], name, value)
    with pytest.raises(ValueError, match=named):
      lazy.check_archive(file, compressed=True)


def test_where_an_entry_starts(tmp_path):
  path = tmp_path / 'a.zip'
  with archive(path, {'first': b'12345', 'second': b'67890'}) as file:
    for info, content in zip(file.infolist(), (b'12345', b'67890'), strict=True):
      start = lazy.data_start(file, info)
      assert path.read_bytes()[start : start + 5] == content
    info.header_offset += 1
    with pytest.raises(ValueError, match='no header'):
      lazy.data_start(file, info)
    info.header_offset -= 1
    info.file_size = 1000
    with pytest.raises(ValueError, match='beyond the file'):
      lazy.data_start(file, info)


# Window.


@pytest.fixture
def window(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'before0123456789after')
  with lazy.Window(path, 6, 10) as window:
    yield window


def test_a_window_reads_as_a_file(window):
  assert window.readable() and window.seekable() and not window.writable()
  assert window.read() == b'0123456789' and window.read() == b''
  assert window.seek(3) == 3 and window.read(2) == b'34' and window.tell() == 5
  assert window.seek(-2, 1) == 3 and window.read(1) == b'3'
  assert window.seek(-1, 2) == 9 and window.read(5) == b'9'
  assert window.seek(-99, 1) == 0 and window.read(1) == b'0'
  assert window.seek(99) == 99 and window.read(1) == b''
  window.seek(8)
  buffer = bytearray(b'......')
  assert window.readinto(buffer) == 2 and buffer == b'89....'
  window.seek(0)
  numbers = np.zeros(2, np.float32)
  assert window.readinto(numbers) == 8 and numbers.tobytes() == b'01234567'


def test_a_window_closes_its_file(window):
  file = window._file
  window.close()
  assert window.closed and file.closed
  window.close()


def test_a_window_onto_a_file_cut_short(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'before0123')
  with lazy.Window(path, 6, 10) as window:
    assert window.read() == b'0123'


# Memory.

_MEASURE = """
import gc, json, sys
sys.path.insert(0, {root!r})
from tljax import weights
from tljax.models.layouts import KERAS, TORCH, Layout, Module
from tljax.weights import convert, readers

def resident(key):
  with open('/proc/self/status') as file:
    return {{k: int(v.split()[0]) << 10 for k, _, v in (
      line.partition(':') for line in file) if k == key}}[key]

def peak(warm_up, run):
  eval(warm_up)
  gc.collect()
  before = resident('VmRSS')
  with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')  # the peak starts anew
  result = eval(run)
  return resident('VmHWM') - before

print(json.dumps([peak(*pair) for pair in {pairs!r}]))
"""


def peaks(*pairs):
  """For each (expression to warm up, expression), the most bytes that the latter took.

  They are the resident ones of a process of its own, pages of mapped files included.
  """
  if not pathlib.Path('/proc/self/clear_refs').exists():
    pytest.skip('only Linux can start the peak anew')
  root = str(pathlib.Path(__file__).parents[2])
  script = _MEASURE.format(root=root, pairs=pairs)
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


# Kernels of convolutions, so that all are transposed; 112 MiB in 28 tensors.
SHAPE, COUNT = (1024, 113, 3, 3), 28


def save_pth(path, tensors):
  torch = oracles.torch()
  torch.save({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, path)


def save_h5(path, tensors):
  with h5py.File(path, 'w') as file:
    for i, (name, value) in enumerate(tensors.items()):
      group = file.create_group(f'layers/conv2d{f"_{i}" if i else ""}/vars')
      group.attrs['name'] = name.removesuffix('.weight')
      group['0'] = value.transpose(2, 3, 1, 0)


def converts(path, shape, count):
  """An expression that reads `count` kernels of our `shape` and converts them."""
  convention = 'KERAS' if path.suffix == '.h5' else 'TORCH'
  return (
    f'convert.load(readers.read({str(path)!r}), '
    f"Layout({convention}, (Module('backbone/(.*)', r'\\1'),)), "
    f"{{f'backbone/layer{{i}}/kernel': {shape} for i in range({count})}})"
  )


SAVERS = {
  '.safetensors': lambda path, tensors: safetensors.numpy.save_file(tensors, path),
  '.npz': lambda path, tensors: np.savez(path, **tensors),
  '.h5': save_h5,
  '.pth': save_pth,
}


@pytest.mark.parametrize(
  'suffixes',
  [('.safetensors', '.npz', '.h5'), pytest.param(('.pth',), marks=pytest.mark.torch)],
)
def test_reading_and_converting_takes_less_than_twice_the_file(tmp_path, suffixes):
  kernel = np.random.default_rng(0).random(SHAPE, np.float32)
  out, into, *size = SHAPE
  pairs, sizes = [], []
  for suffix in suffixes:
    small, whole = (tmp_path / f'{name}{suffix}' for name in ('small', 'whole'))
    SAVERS[suffix](small, {'layer0.weight': kernel[:8]})
    SAVERS[suffix](whole, {f'layer{i}.weight': kernel for i in range(COUNT)})
    pairs.append(
      (
        converts(small, (*size, into, 8), 1),
        converts(whole, (*size, into, out), COUNT),
      )
    )
    sizes.append(whole.stat().st_size)
  for suffix, used, stored in zip(suffixes, peaks(*pairs), sizes, strict=True):
    print(f'{suffix}: {used / stored:.2f} of {stored >> 20} MiB')
    assert 0.9 * stored < used < 1.5 * stored


def test_loading_a_network_takes_less_than_twice_the_file(tmp_path):
  name = 'resnet18'
  shapes = jax.eval_shape(
    models.create(name).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )
  rng = np.random.default_rng(0)
  leaves = {
    path: rng.random(shape.shape, np.float32)
    for path, shape in convert.flatten(shapes).items()
  }
  path = tmp_path / f'{name}.safetensors'
  layout = models.family(name).layouts(name)['torchvision']
  writers.write(path, convert.store(leaves, layout))
  stored = path.stat().st_size
  assert stored > 40 << 20
  (used,) = peaks(
    (f'weights._abstract({name!r}, 1000)', f'weights.load({name!r}, {str(path)!r})')
  )
  print(f'{used / stored:.2f} of {stored >> 20} MiB')
  assert 0.9 * stored < used < 1.5 * stored
