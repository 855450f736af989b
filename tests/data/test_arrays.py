"""Sets in one file: NumPy archives, MATLAB's, MNIST's idx and USPS' HDF5."""

import gzip
import struct

import h5py
import numpy as np
import pytest
from scipy import io

from tljax import data
from tljax.data import arrays
from tljax.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 6, 6, 3), np.uint8)
LABELS = np.arange(30) % 3


@pytest.mark.parametrize(
  'names', [('image', 'label'), ('images', 'labels'), ('x', 'y'), ('data', 'target')]
)
def test_a_pair_of_arrays(tmp_path, names):
  path = tmp_path / 'set.npz'
  np.savez(path, **dict(zip(names, (IMAGES, LABELS), strict=True)))
  whole = arrays.read_npz(str(path))['all']
  np.testing.assert_array_equal(whole[4], IMAGES[4])
  np.testing.assert_array_equal(whole.labels, LABELS)
  assert whole.labels.dtype == np.int32 and whole.classes == ('0', '1', '2')
  splits = data.load(f'npz:{path}', data.Transform(6, 8))  # resized whole: not cropped
  assert {k: len(s) for k, s in splits.items()} == {
    'train': 18,
    'validation': 3,
    'test': 9,
  }
  for image in splits['test'].images:
    assert any(np.array_equal(image, other) for other in IMAGES)


def test_a_pair_a_split(tmp_path):
  path = tmp_path / 'set.npz'
  np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:6], y_test=LABELS[:6])
  splits = data.load(f'npz:{path}', data.Transform(4))
  assert {k: len(s) for k, s in splits.items()} == {
    'train': 27,
    'validation': 3,
    'test': 6,
  }
  assert splits['test'].images.shape == (6, 4, 4, 3)


@pytest.mark.parametrize(
  'images',
  [IMAGES[..., 0], IMAGES[..., :1], (IMAGES[..., 0] / 255).astype(np.float32)],
  ids=['grey', 'channel', 'float'],
)
def test_grey_and_float_images(tmp_path, images):
  np.savez(tmp_path / 'set.npz', image=images, label=LABELS)
  splits = data.load(f'npz:{tmp_path / "set.npz"}', data.Transform(6))
  grey = {image.tobytes() for image in splits['train'].images}
  wanted = {np.repeat(i[..., :1], 3, -1).tobytes() for i in IMAGES}
  assert grey < wanted


def test_features_pass_and_string_labels_are_classes(tmp_path):
  features = RNG.normal(size=(30, 5)).astype(np.float32)
  np.savez(tmp_path / 'set.npz', features=features, labels=np.array(list('cab') * 10))
  splits = data.load(f'npz:{tmp_path / "set.npz"}', data.Transform(6))
  train = splits['train']
  assert train.classes == ('a', 'b', 'c') and train.images.dtype == np.float32
  for row, label in zip(train.images, train.labels, strict=True):
    (i,) = np.flatnonzero((features == row).all(1))
    assert 'cab'[i % 3] == train.classes[label]


def test_float_labels_are_targets_of_a_regression(tmp_path):
  targets = RNG.normal(size=(30, 2))
  np.savez(tmp_path / 'set.npz', image=IMAGES, target=targets)
  splits = data.load(f'npz:{tmp_path / "set.npz"}', data.Transform(6))
  assert splits['train'].classes == () and splits['train'].labels.shape == (18, 2)
  assert splits['train'].labels.dtype == np.float32


def write_idx(path, array, compress):
  head = struct.pack('>HBB', 0, 8, array.ndim) + struct.pack(
    f'>{array.ndim}I', *array.shape
  )
  content = head + array.tobytes()
  path.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize('compress', [False, True])
def test_idx_files_in_a_folder_are_the_splits(tmp_path, compress):
  for part, rows in (('train', 30), ('t10k', 9)):
    write_idx(
      tmp_path / f'{part}-images-idx3-ubyte', IMAGES[:rows, ..., 0].copy(), compress
    )
    labels = LABELS[:rows].astype(np.uint8)
    write_idx(tmp_path / f'{part}-labels-idx1-ubyte', labels, compress)
  splits = arrays.read_idx(str(tmp_path))
  assert {k: len(s) for k, s in splits.items()} == {'train': 30, 'test': 9}
  np.testing.assert_array_equal(splits['test'][3], IMAGES[3, ..., 0])
  np.testing.assert_array_equal(splits['train'].labels, LABELS)


def test_rows_of_hdf5_are_square_images(tmp_path):
  path = tmp_path / 'set.h5'
  with h5py.File(path, 'w') as file:
    for split, rows in (('train', 30), ('test', 9)):
      flat = (IMAGES[:rows, ..., 0] / 255).reshape(rows, -1)
      file[f'{split}/data'], file[f'{split}/target'] = flat, LABELS[:rows]
  splits = arrays.read_h5(str(path))
  np.testing.assert_array_equal(splits['test'][3], IMAGES[3, ..., 0])


@pytest.mark.parametrize(
  ('name', 'low', 'high'),
  [('data', -1, 1), ('data', 0, 1.01), ('features', 0, 1), ('feas', 0, 1)],
)
def test_rows_of_hdf5_that_are_features(tmp_path, name, low, high):
  train, test = RNG.random((30, 36)), RNG.random((9, 36))
  test[3, :2] = low, high  # one split tells for both
  with h5py.File(tmp_path / 'set.h5', 'w') as file:
    for split, rows in (('train', train), ('test', test)):
      file[f'{split}/{name}'], file[f'{split}/target'] = rows, LABELS[: len(rows)]
  splits = arrays.read_h5(str(tmp_path / 'set.h5'))
  for split, rows in (('train', train), ('test', test)):
    np.testing.assert_array_equal(splits[split][4], np.float32(rows[4]))


def test_rows_of_hdf5_in_bytes_are_images(tmp_path):
  with h5py.File(tmp_path / 'set.h5', 'w') as file:
    file['data'], file['target'] = IMAGES[..., 0].reshape(30, 36), LABELS
  (split,) = arrays.read_h5(str(tmp_path / 'set.h5')).values()
  np.testing.assert_array_equal(split[3], IMAGES[3, ..., 0])


@pytest.mark.parametrize(
  ('content', 'named'),
  [
    ({'image': IMAGES}, 'image'),
    ({'image': IMAGES, 'label': LABELS[:9]}, '30 images but 9 labels'),
    ({'image': IMAGES[..., :2], 'label': LABELS}, r'images \(30, 6, 6, 2\)'),
    ({'image': IMAGES.astype(float), 'label': LABELS}, r'floats in \[0, 1\]'),
    ({'image': IMAGES, 'label': 0 * LABELS}, r'1 class\(es\)'),
    ({'image': IMAGES, 'label': np.stack([LABELS] * 2, 1)}, 'one integer or string'),
    ({'a': IMAGES}, 'holds a; want arrays named image'),
    (
      {'x_train': IMAGES, 'y_train': LABELS, 'x_test': IMAGES, 'y_test': LABELS + 1},
      "class '3' is in the test split but not in the training split",
    ),
    ({'image': np.array([{}, 1]), 'label': LABELS}, 'damaged or of another format'),
  ],
)
def test_bad_archives(tmp_path, content, named):
  path = tmp_path / 'set.npz'
  np.savez(path, **content)
  with pytest.raises(InputError, match=f'set.npz: .*{named}') as error:
    arrays.read_npz(str(path))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('read', [arrays.read_npz, arrays.read_idx, arrays.read_h5])
def test_damaged_and_missing_files(tmp_path, read):
  path = tmp_path / 'set'
  with pytest.raises(InputError, match='there is no such file'):
    read(str(path))
  for content in (b'', b'nothing of the kind', b'\x1f\x8b\x08' + bytes(9)):
    path.write_bytes(content)
    with pytest.raises(InputError, match='damaged or of another format') as error:
      read(str(path))
    assert '\n' not in str(error.value)


def test_truncated_idx(tmp_path):
  path = tmp_path / 'train-images-idx3-ubyte'
  write_idx(path, IMAGES[..., 0].copy(), False)
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(InputError, match='idx3-ubyte: damaged'):
    arrays.read_idx(str(path))


@pytest.mark.parametrize(
  ('spec', 'sizes', 'shape'),
  [
    ('idx:{}/mnist/t10k-images-idx3-ubyte.gz', [6000, 1000, 3000], (28, 28)),
    ('idx:{}/mnist', [6000, 1000, 3000], (28, 28)),
    ('h5:{}/usps/usps.h5', [6562, 729, 2007], (16, 16)),
    ('npz:{}/mnist_m/mnist_m_test_0000_4499.npz', [2700, 450, 1350], (32, 32, 3)),
  ],
)
def test_the_real_digits(shared_data, spec, sizes, shape):
  splits = data.loading.split(data.loading.read(spec.format(shared_data)))
  for name, size in zip(('train', 'validation', 'test'), sizes, strict=True):
    assert abs(len(splits[name]) - size) <= 5
    assert splits[name][0].shape == shape and splits[name][0].dtype == np.uint8
    assert splits[name].classes == tuple('0123456789')


def test_matlab_files(tmp_path):
  features = np.arange(12).reshape(6, 2)
  labels = np.array([[1.0], [2], [10], [1], [2], [10]])
  io.savemat(tmp_path / 'a.mat', {'fts': features, 'labels': labels, 'other': 'x'})
  (source,) = arrays.read_mat(str(tmp_path / 'a.mat')).values()
  np.testing.assert_array_equal(np.stack([source[i] for i in range(6)]), features)
  assert source.classes == ('1', '2', '10') and source.labels.dtype == np.int32
  np.testing.assert_array_equal(source.labels, [0, 1, 2, 0, 1, 2])


def test_matlab_of_the_newest_version(tmp_path):
  with h5py.File(tmp_path / 'a.mat', 'w', userblock_size=512) as file:
    file['fts'] = np.zeros((2, 3))
  with open(tmp_path / 'a.mat', 'r+b') as file:
    file.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM')
  with pytest.raises(InputError, match='version 7.3; save it'):
    arrays.read_mat(str(tmp_path / 'a.mat'))


def test_bools_are_several_classes(tmp_path):
  labels = np.array([[1, 0, 1], [0, 0, 0]] * 15, bool)
  np.savez(tmp_path / 'a.npz', x=IMAGES, y=labels)
  (source,) = arrays.read_npz(str(tmp_path / 'a.npz')).values()
  assert source.classes == ('0', '1', '2') and source.label(0) == '0|2'
  np.testing.assert_array_equal(source.labels, labels)
