"""TensorFlow's files against TensorFlow, where installed; what is said without it."""

import sys

import numpy as np
import pytest

from tljax.errors import InputError
from tljax.weights import readers

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
BIAS = np.arange(4, dtype=np.float32)


def refused(path, match):
  """Asserts that a file is refused in one line that names it."""
  with pytest.raises(InputError, match=match) as error:
    dict(readers.read(path))
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_without_tensorflow_the_error_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  (tmp_path / 'model.index').write_bytes(b'')
  (tmp_path / 'saved_model.pb').write_bytes(b'')
  for path in (tmp_path / 'model.index', tmp_path):
    refused(path, r"wants TensorFlow; pip install 'tljax\[tensorflow\]'")


def test_other_folders_are_no_saved_models(tmp_path):
  refused(tmp_path, 'SavedModel')


@pytest.fixture(scope='module')
def tf():
  return pytest.importorskip('tensorflow')


@pytest.fixture
def module(tf):
  class Dense(tf.Module):
    def __init__(self):
      super().__init__()
      self.kernel = tf.Variable(KERNEL)
      self.half = tf.Variable(tf.cast(KERNEL, tf.bfloat16))
      self.table = tf.Variable(['text'], dtype=tf.string)

  module = tf.Module()
  module.dense = Dense()
  module.parts = [tf.Variable(BIAS), tf.Variable(BIAS + 1)]
  return module


def assert_equal(ours, prefix=''):
  names = ('dense/half', 'dense/kernel', 'parts/0', 'parts/1')
  assert set(ours) == {prefix + name for name in names}
  np.testing.assert_array_equal(ours[f'{prefix}dense/kernel'], KERNEL, strict=True)
  half = ours[f'{prefix}dense/half']
  assert half.dtype.name == 'bfloat16'
  np.testing.assert_array_equal(half.astype(np.float32), KERNEL)
  np.testing.assert_array_equal(ours[f'{prefix}parts/1'], BIAS + 1, strict=True)


def test_reads_a_checkpoint(tf, module, tmp_path):
  path = tf.train.Checkpoint(net=module).save(tmp_path / 'model')
  assert_equal(readers.read(f'{path}.index'), 'net/')


def test_reads_a_saved_model(tf, module, tmp_path):
  tf.saved_model.save(module, tmp_path / 'model')
  assert_equal(readers.read(tmp_path / 'model'))


def test_reads_names_of_version_1(tf, tmp_path):
  prefix = str(tmp_path / 'model.ckpt')
  tf.raw_ops.SaveV2(
    prefix=prefix,
    tensor_names=['resnet/conv1/kernel', 'resnet/conv1/bias'],
    shape_and_slices=['', ''],
    tensors=[KERNEL, BIAS],
  )
  ours = readers.read(f'{prefix}.index')
  assert set(ours) == {'resnet/conv1/kernel', 'resnet/conv1/bias'}
  np.testing.assert_array_equal(ours['resnet/conv1/kernel'], KERNEL, strict=True)


def test_damaged_files(tf, module, tmp_path):
  prefix = tf.train.Checkpoint(net=module).save(tmp_path / 'model')
  data = tmp_path / f'{prefix}.data-00000-of-00001'
  index = tmp_path / f'{prefix}.index'
  for path in (index, data):
    whole = path.read_bytes()
    for content in (b'', b'garbage' * 9, whole[:9], None):
      path.unlink()
      if content is not None:
        path.write_bytes(content)
      refused(index, 'damaged|no such file')
    path.write_bytes(whole)
  assert_equal(readers.read(index), 'net/')
