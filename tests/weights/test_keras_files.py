"""Keras' files against Keras; files by hand as Keras 1 and 2 wrote; hostile files."""

import json
import struct
import zipfile

import h5py
import jax
import numpy as np
import pytest

from tests import oracles
from tests.weights.checks import assert_equal, refused
from tljax.weights import keras_files, readers

# Keras', on NumPy 2.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')
VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


# What Keras 3 writes.


@pytest.fixture(scope='module')
def keras():
  return oracles.keras()


@pytest.fixture(autouse=True)
def lenient():
  """Keras promotes ranks and dtypes as it likes."""
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    yield


def network(keras):
  """All kinds of layers, a model in a model, an optimiser, numbered classes."""
  layers = keras.layers
  innermost = keras.Sequential([layers.Conv2D(4, 1, name='deepest')], name='innermost')
  inner = keras.Sequential(
    [
      layers.Conv2D(4, 3, name='deep'),
      layers.BatchNormalization(scale=False, name='deep_bn'),
      innermost,
    ],
    name='inner',
  )
  images = x = keras.Input((16, 16, 3))
  for layer in (
    layers.Conv2D(4, 3, strides=2, padding='same', use_bias=False, name='stem'),
    layers.BatchNormalization(name='stem_bn'),
    layers.PReLU(shared_axes=(1, 2), name='slope'),
    layers.SeparableConv2D(4, 3, padding='same', name='separable'),
    layers.SeparableConv2D(4, 3, padding='same', use_bias=False, name='separable2'),
    layers.DepthwiseConv2D(3, padding='same', name='depthwise'),
    inner,
    layers.BatchNormalization(center=False, scale=False, name='plain_bn'),
    layers.LayerNormalization(name='ln'),
    layers.GroupNormalization(2, name='gn'),
    layers.Conv2DTranspose(4, 2, name='up'),
    layers.Dropout(0.1, name='dropout'),
    layers.GlobalAveragePooling2D(name='pool'),
    layers.Dense(3, name='predictions'),
  ):
    x = layer(x)
  model = keras.Model(images, x)
  rng = np.random.default_rng(0)
  model.set_weights([rng.random(v.shape, np.float32) for v in model.weights])
  model.compile('adam', 'mse')
  model.optimizer.build(model.trainable_variables)
  return model


def tensors_of(layer):
  """By layer and variable; a layer of a model within is called by its own name."""
  for part in layer.layers:
    if hasattr(part, 'layers'):
      yield from tensors_of(part)
    else:
      for variable in part.weights:
        yield f'{part.name}/{variable.name}', np.asarray(variable.value)


@pytest.mark.keras
@pytest.mark.parametrize('kind', ['.weights.h5', '.keras', '.h5'])
@pytest.mark.filterwarnings('ignore:You are saving:UserWarning')
def test_reads_what_keras_saves(keras, tmp_path, kind):
  model = network(keras)
  path = tmp_path / f'model{kind}'
  (model.save_weights if kind == '.weights.h5' else model.save)(path)
  theirs = dict(tensors_of(model))
  assert len(theirs) == 30
  assert_equal(readers.read(path), theirs)


@pytest.mark.keras
def test_reads_half_precision(keras, tmp_path):
  path = tmp_path / 'model.weights.h5'
  for dtype in ('float16', 'bfloat16'):
    layer = keras.layers.Dense(3, dtype=dtype, name='dense')
    model = keras.Sequential([keras.Input((2,)), layer])
    model.save_weights(path)
    assert_equal(readers.read(path), dict(tensors_of(model)))


@pytest.mark.keras
def test_layers_of_a_layer_go_by_both_names(keras, tmp_path):
  images = keras.Input((4, 6))
  attention = keras.layers.MultiHeadAttention(2, 3, name='attention')
  model = keras.Model(images, attention(images, images))
  path = tmp_path / 'model.weights.h5'
  model.save_weights(path)
  ours = readers.read(path)
  assert len(ours) == len(attention.weights) == 8
  for dense in ('query', 'key', 'value', 'output'):
    part = getattr(attention, f'_{dense}_dense')
    names = [name for name in ours if dense in name]
    assert all(name.startswith('attention/') for name in names)
    shapes = sorted(ours[name].shape for name in names)
    assert shapes == sorted(tuple(v.shape) for v in part.weights)


@pytest.mark.keras
def test_an_archive_may_be_compressed(keras, tmp_path):
  model = network(keras)
  model.save(tmp_path / 'model.keras')
  with (
    zipfile.ZipFile(tmp_path / 'model.keras') as source,
    zipfile.ZipFile(tmp_path / 'small.keras', 'w', zipfile.ZIP_DEFLATED) as target,
  ):
    for info in source.infolist():
      target.writestr(info.filename, source.read(info))
  assert_equal(readers.read(tmp_path / 'small.keras'), dict(tensors_of(model)))


# What Keras 1 and 2 wrote, by hand.


def make_legacy(path, layers, where='/', split=0):
  """Writes {layer: {weight: array}}; `split` names an attribute's part."""
  with h5py.File(path, 'w') as file:
    model = file.require_group(where)

    def set_names(group, attribute, names):
      names = [name.encode() for name in names]
      parts = [names[i : i + split] for i in range(0, len(names), split or 1)]
      for i, part in enumerate(parts if split else [names]):
        group.attrs[f'{attribute}{i if split else ""}'] = part

    set_names(model, 'layer_names', layers)
    for layer, tensors in layers.items():
      group = model.create_group(layer)
      set_names(group, 'weight_names', tensors)
      for name, value in tensors.items():
        group[name] = value
  return path


LEGACY = {
  'input_1': {},
  'conv1': {'conv1/kernel:0': VALUES, 'conv1/bias:0': VALUES[0]},
  'bn1': {
    'bn1/gamma:0': VALUES[0],
    'bn1/beta:0': VALUES[0] + 1,
    'bn1/moving_mean:0': VALUES[0] + 2,
    'bn1/moving_variance:0': VALUES[0] + 3,
  },
  'dw': {'dw/depthwise_kernel:0': VALUES, 'dw/bias:0': VALUES[1]},
  'sep': {'sep/depthwise_kernel:0': VALUES, 'sep/pointwise_kernel:0': VALUES + 1},
  # A graph with two models numbers its names.
  'fc': {'fc_1/kernel:0': VALUES, 'fc_1/bias:0': VALUES[0, 0]},
  # A model in the model.
  'resnet': {'a_conv/kernel:0': VALUES + 4, 'a_bn/gamma:0': VALUES + 5},
}
EXPECTED = {
  'conv1/kernel': VALUES,
  'conv1/bias': VALUES[0],
  'bn1/gamma': VALUES[0],
  'bn1/beta': VALUES[0] + 1,
  'bn1/moving_mean': VALUES[0] + 2,
  'bn1/moving_variance': VALUES[0] + 3,
  'dw/kernel': VALUES,
  'dw/bias': VALUES[1],
  'sep/depthwise_kernel': VALUES,
  'sep/pointwise_kernel': VALUES + 1,
  'fc/kernel': VALUES,
  'fc/bias': VALUES[0, 0],
  'a_conv/kernel': VALUES + 4,
  'a_bn/gamma': VALUES + 5,
}


@pytest.mark.parametrize('split', [0, 1, 2])
@pytest.mark.parametrize('where', ['/', 'model_weights'])
def test_reads_what_keras_2_wrote(tmp_path, where, split):
  path = make_legacy(tmp_path / 'model.h5', LEGACY, where, split)
  assert_equal(readers.read(path), EXPECTED)


def test_reads_what_keras_1_wrote(tmp_path):
  layers = {
    'conv1': {'conv1_W': VALUES, 'conv1_b': VALUES[0]},
    'bn1': {
      'bn1_gamma': VALUES[0],
      'bn1_beta': VALUES[0],
      'bn1_running_mean': VALUES[1],
      'bn1_running_std': VALUES[1] + 1,  # it is the variance
    },
  }
  path = make_legacy(tmp_path / 'model.h5', layers)
  assert_equal(
    readers.read(path),
    {
      'conv1/kernel': VALUES,
      'conv1/bias': VALUES[0],
      'bn1/gamma': VALUES[0],
      'bn1/beta': VALUES[0],
      'bn1/moving_mean': VALUES[1],
      'bn1/moving_variance': VALUES[1] + 1,
    },
  )


def test_published_file(shared_data):
  (path,) = shared_data.glob('squeezenet1_1_keras_notop/*.h5')
  theirs = {}
  with h5py.File(path) as file:
    for layer in file.attrs['layer_names'].astype(str):
      weights = file[layer].attrs['weight_names'].astype(str)
      for name, variable in zip(weights, ('kernel', 'bias'), strict=False):
        theirs[f'{layer}/{variable}'] = file[layer][name][()]
  assert len(theirs) == 50 and theirs['conv1/kernel'].shape == (3, 3, 3, 64)
  assert_equal(readers.read(path), theirs)


# What is refused.


@pytest.fixture(params=['.h5', '.keras'])
def make(request, tmp_path):
  """Returns `fill(file) -> path`: an HDF5 file, perhaps in an archive."""

  def make(fill):
    path = tmp_path / 'inner.h5'
    with h5py.File(path, 'w') as file:
      file['layers/dense/vars/0'] = VALUES
      fill(file)
    if request.param == '.h5':
      return path
    return make_archive(tmp_path / 'model.keras', path.read_bytes())

  return make


def make_archive(path, content, config='{}', **others):
  with zipfile.ZipFile(path, 'w') as archive:
    entries = {'metadata.json': '{}', 'config.json': config}
    entries |= {keras_files._WEIGHTS: content, **others}
    for name, value in entries.items():
      if value is not None:
        archive.writestr(zipfile.ZipInfo(name), value)
  return path


def _dataset(file, **kwargs):
  file.create_dataset('layers/dense/vars/1', **kwargs)


def _virtual(file):
  layout = h5py.VirtualLayout((24,), 'f4')
  layout[:] = h5py.VirtualSource('/etc/other.h5', 'x', (24,))
  file.create_virtual_dataset('layers/dense/vars/1', layout)


def _cycle(file):
  file['layers/dense/again'] = file['layers']


@pytest.mark.parametrize(
  'fill, named',
  [
    (lambda f: f.update({'x': h5py.SoftLink('/layers')}), "'x' is a link"),
    (lambda f: f['layers'].update({'x': h5py.SoftLink('/nowhere')}), "'layers/x' is a"),
    (lambda f: f.update({'x': h5py.ExternalLink('/etc/passwd', '/')}), "'x' is a link"),
    (
      lambda f: _dataset(f, shape=(8,), dtype='u1', external=[('/etc/passwd', 0, 8)]),
      'in another file',
    ),
    (_virtual, 'in another file'),
    (_cycle, 'is there twice'),
    (lambda f: _dataset(f, data=['text'], dtype=h5py.string_dtype()), 'no array of'),
    (lambda f: _dataset(f, shape=(2,), dtype=h5py.vlen_dtype('f4')), 'no array of'),
    (lambda f: _dataset(f, shape=(2,), dtype=h5py.ref_dtype), 'no array of'),
    (lambda f: _dataset(f, data=h5py.Empty('f4')), 'no array of'),
    (
      lambda f: _dataset(
        f, shape=(1 << 28,), dtype='f4', chunks=(1 << 20,), compression='gzip'
      ),
      'claim to hold',
    ),
    (lambda f: _dataset(f, shape=(1 << 60,), dtype='f4', chunks=(4,)), 'claim to hold'),
    (
      lambda f: [
        f.create_dataset(f'layers/d/vars/{i}', (1 << 22,), 'f4') for i in range(9)
      ],
      'claim to hold',
    ),
  ],
)
def test_hostile_contents(make, fill, named):
  refused(make(fill), named)


def test_a_real_bomb_is_not_unpacked(make):
  def fill(file):
    kwargs = {'chunks': (1 << 22,), 'compression': 'gzip', 'compression_opts': 9}
    data = file.create_dataset('layers/dense/vars/1', (1 << 25,), 'f4', **kwargs)
    for i in range(8):
      data[i << 22 : (i + 1) << 22] = 0

  refused(make(fill), 'claim to hold')


@pytest.mark.parametrize(
  'layers, change, named',
  [
    (LEGACY, lambda f: f['conv1/conv1'].pop('kernel:0'), 'conv1/conv1/kernel:0'),
    (LEGACY, lambda f: f.pop('conv1'), 'conv1'),
    (LEGACY, lambda f: f['bn1'].attrs.update(weight_names=[b'../fc/x']), r'\.\./fc'),
    (LEGACY, lambda f: f['bn1'].attrs.update(weight_names=5), 'damaged'),
    (LEGACY, lambda f: f.attrs.update(layer_names=[b'\xff\xfe']), 'damaged'),
    (LEGACY, lambda f: f.attrs.update(model_config='{"config'), 'damaged'),
    (LEGACY, lambda f: f.attrs.update(model_config='[' * 100_000), 'damaged'),
    ({'a': {'a/kernel:0': VALUES, 'a/kernel:1': VALUES}}, None, "named 'a/kernel'"),
    ({'a': {}}, None, 'no layers in it'),
    ({}, None, 'no layers in it'),
  ],
)
def test_hostile_legacy_files(tmp_path, layers, change, named):
  path = make_legacy(tmp_path / 'model.h5', layers)
  if change:
    with h5py.File(path, 'a') as file:
      change(file)
  refused(path, named)


def test_a_legacy_config_tells_models_from_layers(tmp_path):
  tensors = {'outer': {'outer/dense/kernel': VALUES, 'outer/dense/bias': VALUES}}
  path = make_legacy(tmp_path / 'model.h5', tensors, 'model_weights')
  assert set(readers.read(path)) == {'outer/dense/kernel', 'outer/dense/bias'}
  dense = {'class_name': 'Dense', 'config': {'name': 'dense'}}
  outer = {'class_name': 'Model', 'config': {'name': 'outer', 'layers': [dense]}}
  with h5py.File(path, 'a') as file:
    file.attrs['model_config'] = json.dumps({'config': {'layers': [outer]}})
  assert set(readers.read(path)) == {'dense/kernel', 'dense/bias'}


@pytest.fixture
def content(tmp_path):
  path = tmp_path / 'inner.h5'
  with h5py.File(path, 'w') as file:
    file['layers/dense/vars/0'] = VALUES
    file['layers/dense_1/vars/0'] = VALUES + 1
  return path.read_bytes()


def test_names_come_from_the_config_where_the_weights_lack_them(content, tmp_path):
  layers = [{'class_name': 'Dense', 'config': {'name': n}} for n in ('fc', 'logits')]
  config = json.dumps({'config': {'layers': layers}})
  path = make_archive(tmp_path / 'model.keras', content, config)
  assert_equal(readers.read(path), {'fc/kernel': VALUES, 'logits/kernel': VALUES + 1})


@pytest.mark.parametrize(
  'config',
  [
    *('', 'garbage', '{"config"', '[' * 100_000, '\x00', 'NaN x'),
    *('{"config": {"layers": 5}}', '{"config": {"layers": [5]}}'),
    '{"config": {"layers": [{}]}}',
    '{"config": {"layers": [{"class_name": 5, "config": {}}]}}',
    '{"config": {"layers": [{"class_name": "A", "config": []}]}}',
  ],
)
def test_a_config_that_is_garbage(content, tmp_path, config):
  refused(make_archive(tmp_path / 'model.keras', content, config), 'damaged')


@pytest.mark.parametrize(
  'name', ['../../evil', '/etc/evil', 'C:\\evil', 'a/../../evil', '..\\evil']
)
def test_names_in_an_archive_do_not_lead_outside(content, tmp_path, name):
  path = make_archive(tmp_path / 'model.keras', content, **{name: 'x'})
  refused(path, 'points outside')
  assert not list(tmp_path.rglob('evil'))


def test_archives_that_lie(content, tmp_path):
  path = tmp_path / 'model.keras'
  refused(make_archive(path, None), 'model.weights.h5')
  refused(make_archive(path, content, None), 'config.json')
  refused(make_archive(path, b'no HDF5'), 'damaged')
  refused(make_archive(path, content[:-100]), 'damaged')
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    archive.writestr('config.json', '{}')
    archive.writestr(keras_files._WEIGHTS, content + bytes(1 << 27))
  assert path.stat().st_size < 1 << 20
  refused(path, 'claim to hold')
  # Two layers of compression do not multiply.
  with h5py.File(tmp_path / 'zeros.h5', 'w') as file:
    file.create_dataset('layers/dense/vars/0', (1 << 25,), 'f4', chunks=(4,))
    file['layers/dense/vars/1'] = np.zeros(1 << 23, np.float32)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('config.json', '{}')
    archive.write(tmp_path / 'zeros.h5', keras_files._WEIGHTS)
  refused(path, 'claim to hold')


@pytest.mark.parametrize('suffix', ['.h5', '.hdf5', '.keras'])
def test_truncated_files(content, tmp_path, suffix):
  path = tmp_path / f'model{suffix}'
  whole = content
  if suffix == '.keras':
    whole = make_archive(path, content).read_bytes()
  for length in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    refused(path, 'damaged')
  path.write_bytes(b'garbage' * 1000)
  refused(path, 'damaged')


def test_a_heap_of_strings_that_goes_round_in_circles(make):
  path = make(lambda f: f.attrs.update(layer_names=['dense', 'x' * 5000]))
  whole = path.read_bytes()
  heap = whole.index(b'GCOL\x01')
  assert int.from_bytes(whole[heap + 8 : heap + 16], 'little') >= 4096
  for size in (0, 8, 1 << 40, (1 << 64) - 16, (1 << 64) - 1):
    for index in (0, 1):
      changed = bytearray(whole)
      struct.pack_into('<H6xQ', changed, heap + 16, index, size)
      path.write_bytes(changed)
      if index == 0 or size > 8:
        refused(path, 'heap of strings')


@pytest.mark.parametrize('shape', [(1 << 28,), (1 << 60,), ((1 << 64) - 1,)])
def test_an_attribute_that_claims_too_much(tmp_path, shape):
  path = make_legacy(tmp_path / 'model.h5', {f'layer{i}': {} for i in range(77)})
  whole = path.read_bytes()
  size, largest = struct.pack('<QQ', 77, 77), struct.pack('<QQ', *shape * 2)
  assert whole.count(size) == 1
  path.write_bytes(whole.replace(size, largest))
  refused(path, 'damaged')
