"""PyTorch's files against PyTorch; hostile pickles; bytes changed at random."""

import collections
import io
import pickle
import pickletools
import struct
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.weights.checks import refused
from tljax.errors import InputError
from tljax.weights import readers, torch_pickle

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'stream'])
SHAPE = (3, 4, 2)
NOTHING = 'no state_dict|not those that'  # what a file without tensors is
VALUES = np.arange(24, dtype=np.float32).reshape(SHAPE)


# Files made by hand, so that they can be wrong.


class Storage:
  """Pickled as PyTorch refers to a storage."""

  def __init__(self, key='0', kind='FloatStorage', count=24, name='storage'):
    self.pid = (name, Global('torch', kind), key, 'cpu', count)


class Global:
  """Pickled as a class or function, whether or not there is one."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Call:
  """Pickled as a call, and the state that is set on its result."""

  def __init__(self, function, *args, state=None):
    self.call = function, args, state


class Pickler(pickle._Pickler):
  """The Python one: it writes what the C one would look up first."""

  def persistent_id(self, obj):
    return obj.pid if isinstance(obj, Storage) else None

  def save(self, obj, save_persistent_id=True):
    if isinstance(obj, Global):
      self.write(f'c{obj.module}\n{obj.name}\n'.encode())
    elif isinstance(obj, Call):
      function, args, state = obj.call
      self.save(function)
      self.save(args)
      self.write(pickle.REDUCE)
      if state is not None:
        self.save(state)
        self.write(pickle.BUILD)
    else:
      super().save(obj, save_persistent_id)


def tensor(storage=None, offset=0, shape=SHAPE, strides=(8, 2, 1), *rest):
  rebuild = Global('torch._utils', '_rebuild_tensor_v2')
  rest = rest or (False, collections.OrderedDict())
  return Call(rebuild, storage or Storage(), offset, shape, strides, *rest)


def dumps(content):
  file = io.BytesIO()
  Pickler(file, 2).dump(content)
  return file.getvalue()


def make_zip(path, content, data=None, order=b'little', **kwargs):
  """Writes a .pth; `content` may be the bytes of a pickle."""
  content = content if isinstance(content, bytes) else dumps(content)
  data = {'0': VALUES.tobytes()} if data is None else data
  with zipfile.ZipFile(path, 'w', **kwargs) as archive:
    archive.writestr('weights/data.pkl', content)
    archive.writestr('weights/byteorder', order)
    for key, value in data.items():
      archive.writestr(f'weights/data/{key}', value)
  return path


def make_stream(path, content, little=True, keys=('0',), count=24, data=None):
  content = content if isinstance(content, bytes) else dumps(content)
  head = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': little}]
  data = VALUES.tobytes() if data is None else data
  parts = [*map(dumps, head), content, dumps(list(keys))]
  path.write_bytes(b''.join(parts) + struct.pack('<q', count) + data)
  return path


@pytest.fixture(params=[make_zip, make_stream], ids=['zip', 'stream'])
def make(request):
  return request.param


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'weights.pth'


def assert_equal(ours, theirs):
  """To the last bit, with names, shapes and dtypes."""
  assert set(ours) == set(theirs)
  for name, value in theirs.items():
    value = value.detach().contiguous()
    assert ours[name].dtype.name == str(value.dtype).removeprefix('torch.')
    assert ours[name].shape == tuple(value.shape)
    flat = value.reshape(-1).view(oracles.torch().uint8)
    assert np.ascontiguousarray(ours[name]).tobytes() == flat.numpy().tobytes()


# What is read.


@pytest.mark.torch
@FORMATS
def test_reads_what_pytorch_saves(path, zipped):
  torch = oracles.torch()
  x = torch.randn(6, 5)
  content = {
    f'{dtype}': (x * 10).to(dtype)
    for dtype in (
      *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
      *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
  }
  content |= {
    'transposed': x.T,
    'sliced': x[1:4, ::2],
    'shares the storage': x,
    'expanded': x[:1].expand(4, 5),
    'scalar': torch.tensor(2.5),
    'empty': torch.zeros(0, 3),
    'parameter': torch.nn.Parameter(torch.randn(3)),
    'channels last': torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
  }
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  assert_equal(readers.read(path), content)


@pytest.mark.torch
@FORMATS
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_finds_the_weights_in_a_checkpoint(path, zipped, protocol):
  import argparse

  torch = oracles.torch()
  net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
  net(torch.randn(5, 3)).sum().backward()
  optimizer = torch.optim.AdamW(net.parameters())
  optimizer.step()
  content = {
    'epoch': 3,
    'best': np.float64(0.5),
    'args': argparse.Namespace(lr=0.1, sizes=(1, 2)),
    'seen': {1, 2},
    'array': np.ones(3),
    'device': torch.device('cpu'),
    'dtype': torch.float32,
    'shape': torch.randn(2, 3).shape,
    'optimizer': optimizer.state_dict(),
    'scheduler': {'milestones': collections.Counter([3, 4])},
    'model': torch.nn.DataParallel(net).state_dict(),
  }
  torch.save(
    content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
  )
  assert_equal(readers.read(path), net.state_dict())


@pytest.mark.torch
@pytest.mark.parametrize(
  'content, chosen',
  [
    ({'state_dict_ema': 1, 'model_ema': 2, 'state_dict': 3, 'model': 4}, 1),
    ({'model_ema': 1, 'state_dict': 2, 'model': 3}, 1),
    ({'state_dict': 1, 'model': 2, 'optimizer': 3}, 1),
    ({'model': 1, 'ema': 2}, 1),
    ({'ema': 1, 'optimizer': 2}, 1),
    ({'state_dict_ema': None, 'state_dict': 1}, 1),
    ({'model': {'state_dict': 1}}, 1),
  ],
)
def test_chooses_the_weights_as_timm_does(path, content, chosen):
  torch = oracles.torch()

  def fill(value):
    if isinstance(value, dict):
      return {key: fill(inner) for key, inner in value.items()}
    return value and {'module._orig_mod.w.bias': torch.full((2,), float(value))}

  torch.save(fill(content), path)
  assert_equal(readers.read(path), {'w.bias': torch.full((2,), float(chosen))})
  if 'ema' not in content and 'model' not in (set(content) - {'model_ema'}):
    helpers = oracles.torch_hub('timm').models._helpers
    assert_equal(readers.read(path), helpers.load_state_dict(path))


@pytest.mark.torch
def test_published_checkpoints(shared_data):
  torch = oracles.torch()
  paths = sorted(shared_data.glob('cifar10_resnets_torch/pretrained_models/*.th'))
  assert len(paths) == 2
  for path in paths:
    theirs = torch.load(path, weights_only=True, map_location='cpu')['state_dict']
    theirs = {name.removeprefix('module.'): value for name, value in theirs.items()}
    assert_equal(readers.read(path), theirs)


def test_published_pth_and_safetensors_are_the_same(shared_data):
  stem = shared_data / 'squeezenet1_1_onnx' / 'derived_torchvision_names'
  ours, theirs = (
    readers.read(stem.with_suffix(suffix)) for suffix in ('.pth', '.safetensors')
  )
  assert set(ours) == set(theirs) and len(ours) == 52
  for name in ours:
    assert ours[name].dtype == theirs[name].dtype == np.float32
    np.testing.assert_array_equal(ours[name], theirs[name], strict=True)


@pytest.mark.torch
def test_files_without_checksums(path):
  torch = oracles.torch()
  torch.serialization.set_crc32_options(False)
  try:
    torch.save({'w': torch.arange(3.0)}, path)
  finally:
    torch.serialization.set_crc32_options(True)
  np.testing.assert_array_equal(readers.read(path)['w'], [0, 1, 2])


def test_files_made_by_hand(path, make):
  strided = tensor(None, 1, (2, 3), (8, 2))
  make(path, {'w': tensor(), 'strided': strided, 3: tensor(), 'note': 'x'})
  tensors = readers.read(path)
  assert set(tensors) == {'w', 'strided'}
  np.testing.assert_array_equal(tensors['w'], VALUES)
  np.testing.assert_array_equal(tensors['strided'], VALUES[:2, :3, 1])


def test_a_state_dict_keeps_its_names_beside_its_versions(path, make):
  items = [['w', tensor()]]
  ordered = Call(
    Global('collections', 'OrderedDict'), items, state={'_metadata': {'': {'v': 1}}}
  )
  assert set(readers.read(make(path, ordered))) == {'w'}


@FORMATS
@pytest.mark.torch
def test_memory(path, zipped):
  torch = oracles.torch()
  content = {f'w{i}': torch.randn(1 << 19) for i in range(8)}  # 2 MB each
  content['w0'] = content['w0'].reshape(1024, 512).T
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  size = path.stat().st_size
  del content
  tracemalloc.start()
  try:
    tensors = readers.read(path)
    assert tracemalloc.get_traced_memory()[1] < 0.1 * size
    tensors['w5']
    assert tracemalloc.get_traced_memory()[1] < 0.2 * size
    kept = dict(tensors)
    assert sum(value.nbytes for value in kept.values()) > 0.99 * size
    assert tracemalloc.get_traced_memory()[1] < 1.5 * size
  finally:
    tracemalloc.stop()


# What is refused.


def calls(module, name, *args):
  return {'w': tensor(), 'evil': Call(Global(module, name), *args)}


@pytest.mark.parametrize(
  'content, named',
  [
    (calls('os', 'system', 'touch evil'), "'os.system'"),
    (calls('posix', 'system', 'touch evil'), "'posix.system'"),
    (calls('builtins', 'eval', '1'), "'builtins.eval'"),
    (calls('__builtin__', 'getattr', tensor(), 'x'), "'__builtin__.getattr'"),
    (calls('torch', 'load', 'x'), "'torch.load'"),
    (calls('torch.serialization', 'load', 'x'), "'torch.serialization.load'"),
    (calls('collections', 'OrderedDict.__reduce__'), "'collections.OrderedDict.__red"),
    (calls('torch._utils', '_rebuild_sparse_tensor', 1), '_rebuild_sparse_tensor'),
    (calls('numpy', 'load', 'x'), "'numpy.load'"),
    (calls('tljax.weights.torch_pickle', 'load'), 'torch_pickle.load'),
    ({'w': Call(Call(Global('torch', 'device')), 'x')}, NOTHING),
    ({'w': Call(tensor(), 'x')}, 'calls what is no function'),
    ({'w': Call(Call(Global('torch', 'Size'), ('x',)), 'x')}, 'calls what is no fun'),
    ({'w': Call(Global('torch', 'FloatStorage'), 'x')}, 'calls what is no function'),
    ({'w': Call(Global('torch', 'Size'), (), state={'x': 1})}, 'sets the state'),
    (Call(Global('torch', 'Size'), (), state=(None, {'x': 1})), 'sets the state'),
    ({'w': tensor(state := Storage(name='module'))}, 'no storage'),
    ({'w': tensor(Storage(key=0))}, 'no storage'),
    ({'w': tensor(Storage(count='24'))}, 'no storage'),
    ({'w': tensor(Storage(kind='Size'))}, 'no storage'),
    ({'w': tensor(None, 0, SHAPE, (8, 2, 1), False, {}, {'conj': True})}, 'conjugated'),
    ({'w': tensor('storage')}, 'not made of a storage'),
    ({'w': tensor(None, 0.0)}, 'not made of a storage'),
    ({'w': tensor(None, 0, ('3',), (1,))}, 'not made of a storage'),
    ({'w': tensor(Storage('0')), 'x': tensor(Storage(kind='IntStorage'))}, 'two kinds'),
    ({'w': 1, 'x': [tensor()]}, 'no state_dict'),
    ([tensor()], 'no state_dict'),
    (tensor(), 'no state_dict'),
    ({'module.w': tensor(), 'w': tensor()}, "two tensors are named 'w'"),
  ],
)
def test_hostile_contents(path, make, content, named, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  refused(make(path, content), named)
  assert not (tmp_path / 'evil').exists()


@pytest.mark.parametrize(
  'changed',
  [
    tensor(None, 1),
    tensor(None, -1),
    tensor(None, 0, (3, 4, 3)),
    tensor(None, 0, (-3, 4, 2)),
    tensor(None, 0, SHAPE, (8, 2)),
    tensor(None, 0, SHAPE, (8, 2, 2)),
    tensor(None, 23, (2,), (-1,)),
    tensor(None, 0, (1 << 40,), (0,)),
    tensor(None, 1 << 62, (1,), (1,)),
    tensor(None, 25, (0,), (1,)),
    tensor(Storage(count=25), 0, (25,), (1,)),
    tensor(Storage(count=-1), 0, (0,), (1,)),
    tensor(Storage(kind='DoubleStorage')),
  ],
)
def test_forged_tensors_do_not_reach_outside(path, make, changed):
  refused(make(path, {'w': changed}), 'reaches outside|ends beyond')


def test_sizes_are_not_multiplied_before_they_are_counted(path, make):
  many = (1 << 2000,) * 100_000
  refused(make(path, {'w': tensor(None, 0, many, many)}), 'reaches outside')


@pytest.mark.parametrize(
  'pickled, named',
  [
    (b'(S"touch evil"\nios\nsystem\n.', 'INST'),
    (b'(cos\nsystem\nS"touch evil"\no.', "'os.system'"),
    (b'(ctorch\ndevice\nS"x"\no.', 'OBJ'),
    (b'\x80\x02\x82\x01.', 'EXT1'),
    (b'Pstorage\n.', 'PERSID'),
    (b'\x80\x05\x97.', 'NEXT_BUFFER'),
    (b'\x80\x04\x8c\x02os\x8c\x06system\x93.', "'os.system'"),
    (b'\x80\x02}N\x85R.', 'no function'),
    (b'\x80\x04]N}\x92.', 'no weights need'),
    (b'\x80\x02X\xff\xff\xff\xffx.', 'damaged'),
    (b'\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.', 'damaged'),
    (b'\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.', 'damaged'),
    (b'\x80\x02\x8b\x04\x00\x00\x00\x01\x00\x00\x00.', 'LONG4'),
    (b'\x80\x02r\xff\xff\xff\xff.', 'damaged'),
    (b'\x80\x02h\x05.', 'damaged'),
    (b'\x80\x02N', 'damaged'),
    (b'\x80\x02.', 'damaged'),
    (b'\x80\x020.', 'damaged'),
    (b'\x80\x02NN.', 'damaged'),
    (b'\x80\x02u.', 'damaged'),
    (b'\x80\x02]s.', 'damaged'),
    (b'\x80\x02Na.', 'damaged'),
    (b'\x80\x02](NNu.', 'damaged'),
    (b'\xff', 'damaged'),
    (b'', 'damaged'),
  ],
)
def test_hostile_pickles(path, make, pickled, named, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  refused(make(path, pickled), named)
  assert not (tmp_path / 'evil').exists()


def test_no_instruction_is_performed_that_is_not_listed():
  known = {code.name for code in pickletools.opcodes}
  ours = {name for name in dir(torch_pickle._Machine) if name.isupper()}
  assert ours <= known
  assert known - ours == {
    *('INST', 'OBJ', 'EXT1', 'EXT2', 'EXT4', 'PERSID'),
    *('NEXT_BUFFER', 'READONLY_BUFFER', 'LONG4'),
  }


def test_pickles_that_hold_themselves(path, make):
  own = {'w': tensor()}
  own['model'] = own
  assert set(readers.read(make(path, own))) == {'w'}
  deep = pickle.PROTO + b'\x02' + b']' * 100_000 + b'a' * 99_999 + b'.'
  refused(make(path, deep), NOTHING)
  # To hash, print or compare these would take 2 ** 60 steps.
  doubled = b')' + b'2\x86' * 60
  refused(make(path, b'\x80\x02' + doubled + b'.'), NOTHING)
  refused(make(path, b'\x80\x02}q\x00' + doubled + b'Ns.'), NOTHING)
  refused(make(path, b'\x80\x04' + doubled + b'X\x01\x00\x00\x00x\x93.'), 'damaged')
  if make is make_stream:
    whole = make(path, {'w': tensor()}).read_bytes()
    keys = b'\x80\x02](' + doubled + doubled + b'e.'
    path.write_bytes(whole.replace(dumps(['0']), keys))
    refused(path, 'not those')


def test_a_pickle_is_of_a_bounded_size(path, make, monkeypatch):
  monkeypatch.setattr(torch_pickle, '_MAX_BYTES', 1000)
  make(path, {'w': tensor(), 'rest': list(range(1000))})
  refused(path, 'more than a state_dict')


def test_a_pickle_is_performed_in_bounded_steps(path, make, monkeypatch):
  copies = b'\x80\x02ccollections\nOrderedDict\nq\x00](' + b'(K\x00K\x00t' * 1000
  copies += b'eq\x010' + b'h\x00h\x01\x85R0' * 1000 + b'}.'
  refused(make(path, copies), 'more than a state_dict')
  pairs = b'\x80\x02ccollections\nOrderedDict\n(' + b'K\x00' * 10_000 + b'tq\x00'
  pairs += b'0](' + b'h\x00' * 10_000 + b'e\x85R.'
  refused(make(path, pairs), 'damaged')
  monkeypatch.setattr(torch_pickle, '_MAX_STEPS', 1000)
  refused(make(path, b'\x80\x02' + b'N0' * 1000 + b'}.'), 'more than a state_dict')


def test_other_byte_orders(tmp_path):
  content = {'w': tensor()}
  refused(make_zip(tmp_path / 'a.pth', content, order=b'big'), 'big-endian')
  refused(make_stream(tmp_path / 'b.pth', content, little=False), 'big-endian')


def test_archives_that_lie(path):
  content = {'w': tensor()}
  refused(make_zip(path, content, compression=zipfile.ZIP_DEFLATED), 'compressed')
  bomb = {'0': VALUES.tobytes(), '1': bytes(1 << 24)}
  refused(make_zip(path, content, bomb, compression=zipfile.ZIP_LZMA), 'compressed')
  refused(make_zip(path, content, {'0': b'short'}), 'reaches outside')
  refused(make_zip(path, content, {}), 'weights/data/0')
  for name in ('../x', '/x', 'C:/x', 'x\\..\\y'):
    make_zip(path, content)
    with zipfile.ZipFile(path, 'a') as archive:
      archive.writestr(zipfile.ZipInfo(name), b'')
    refused(path, 'points outside')
  make_zip(path, content)
  with zipfile.ZipFile(path, 'a') as archive:
    with pytest.warns(UserWarning, match='Duplicate'):
      archive.writestr('weights/data/0', VALUES.tobytes())
  refused(path, 'two')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/model.json', '{}')
  refused(path, 'no data.pkl')
  make_zip(path, content)
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('weights/constants.pkl', dumps(()))
  refused(path, 'TorchScript')


def test_the_directory_of_an_archive_is_not_believed(path):
  make_zip(path, {'w': tensor()})
  whole = path.read_bytes()
  entry = whole.index(b'PK\x01\x02', whole.rindex(b'PK\x03\x04'))  # of data.pkl
  entry = whole.index(b'PK\x01\x02', entry + 1)
  entry = whole.index(b'PK\x01\x02', entry + 1)  # of data/0
  assert whole[entry + 46 :].startswith(b'weights/data/0')
  for at, value in ((20, 1 << 30), (24, 1 << 30), (42, 1 << 30), (42, 7), (16, 7)):
    changed = bytearray(whole)
    struct.pack_into('<I', changed, entry + at, value)
    path.write_bytes(changed)
    refused(path, 'damaged')
  changed = bytearray(whole)
  struct.pack_into('<II', changed, entry + 20, 1 << 30, 1 << 30)
  path.write_bytes(changed)
  refused(path, 'damaged')


def test_streams_that_lie(path):
  content = {'w': tensor()}
  refused(make_stream(path, content, keys=('1',)), 'not those')
  refused(make_stream(path, content, keys=('0', '0')), 'not those')
  refused(make_stream(path, content, keys=()), 'not those')
  refused(make_stream(path, content, keys=(0,)), 'damaged')
  refused(make_stream(path, content, count=25), 'beyond')
  refused(make_stream(path, content, count=-1), 'beyond')
  refused(make_stream(path, content, count=1 << 62), 'beyond')
  refused(make_stream(path, content, count=23), 'reaches outside')
  path.write_bytes(dumps(0x1950A86A20F9469CFC6D))
  refused(path, 'does not begin as')
  path.write_bytes(dumps(0x1950A86A20F9469CFC6C) + dumps(1002))
  refused(path, 'unknown protocol')


def test_changed_data_are_noticed(path):
  make_zip(path, {'w': tensor()})
  whole = bytearray(path.read_bytes())
  whole[whole.index(VALUES.tobytes()) + 5] ^= 1
  path.write_bytes(whole)
  refused(path, 'checksum')


def test_truncated_files(path, make):
  whole = make(path, {'w': tensor()}).read_bytes()
  for length in (0, 1, 3, 4, 30, 64, len(whole) // 2, len(whole) - 97, len(whole) - 1):
    path.write_bytes(whole[:length])
    refused(path, 'damaged')


def test_bytes_changed_at_random(path, make, monkeypatch):
  def forbidden(*_):
    raise AssertionError('a pickle was executed')

  monkeypatch.setattr('os.system', forbidden)
  monkeypatch.setattr('pickle.loads', forbidden)
  monkeypatch.setattr('pickle.load', forbidden)
  ema = {'w': tensor(), 'b': tensor(None, 2, (4,), (2,))}
  whole = make(path, {'epoch': 3, 'model': ema, 'args': 'text'}).read_bytes()
  shapes = {name: np.shape(value) for name, value in readers.read(path).items()}
  assert shapes == {'w': SHAPE, 'b': (4,)}
  rng = np.random.default_rng(0)
  outcomes = collections.Counter()
  pickled = whole.index(dumps({'epoch': 3})[:4])
  for trial in range(600):
    changed = bytearray(whole)
    first = pickled if trial % 2 else 0  # half of them where it counts
    last = min(first + 600, len(whole)) if trial % 2 else len(whole)
    for _ in range(rng.integers(1, 4)):
      changed[rng.integers(first, last)] = rng.integers(256)
    path.write_bytes(changed)
    try:
      tensors = dict(readers.read(path))
    except InputError as error:
      assert '\n' not in str(error)
      outcomes['refused'] += 1
    else:
      assert tensors
      for value in tensors.values():
        assert isinstance(value, np.ndarray) and value.nbytes <= len(whole)
        assert value.dtype == jnp.bfloat16 or value.dtype.kind in 'fiubc'
        value.sum()  # every byte of it is there to read
      outcomes['read'] += 1
  assert min(outcomes.values()) > 30, outcomes
