"""What is written is read back; a file is written whole or not at all."""

import h5py
import numpy as np
import pytest

from tljax.errors import InputError
from tljax.weights import readers, writers

TENSORS = {
  'conv1/kernel': np.arange(24, dtype=np.float32).reshape(2, 3, 4),
  'conv1/bias': np.ones(4, np.float32),
  'bn/moving_variance': np.full(4, 2, np.float32),
  'bn/gamma': np.zeros(4, np.float32),
  'block/sub/layer_scale': np.float32(3).reshape(1),
}
SUFFIXES = pytest.mark.parametrize('suffix', ['.safetensors', '.npz', '.h5'])


@SUFFIXES
def test_what_is_written_is_read_back(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  writers.write(str(path), TENSORS)
  back = readers.read(path)
  assert set(back) == set(TENSORS)
  for name, tensor in TENSORS.items():
    np.testing.assert_array_equal(back[name], tensor, strict=True)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_keras_finds_its_order_in_the_attributes(tmp_path):
  writers.write(tmp_path / 'a.h5', TENSORS)
  with h5py.File(tmp_path / 'a.h5') as file:
    assert list(file.attrs['layer_names']) == ['conv1', 'bn', 'block/sub']
    names = list(file['bn'].attrs['weight_names'])
    assert names == ['bn/gamma:0', 'bn/moving_variance:0']
    assert file['bn'][names[0]].shape == (4,)


@SUFFIXES
def test_an_existing_file_is_kept(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(b'precious')
  with pytest.raises(InputError, match='exists; choose another name'):
    writers.write(path, TENSORS)
  assert path.read_bytes() == b'precious'


def test_other_suffixes(tmp_path):
  for name in ('a.pth', 'a', 'a.msgpack'):
    with pytest.raises(InputError, match=r'want one of \.h5, \.npz, \.safetensors'):
      writers.write(tmp_path / name, TENSORS)


@SUFFIXES
def test_nothing_is_left_of_a_failure(tmp_path, suffix, monkeypatch):
  def fail(tensors, path):
    path.write_bytes(b'half')
    raise OSError('the disk is full')

  monkeypatch.setitem(writers._WRITERS, suffix, fail)
  with pytest.raises(OSError, match='full'):
    writers.write(tmp_path / f'a{suffix}', TENSORS)
  assert not list(tmp_path.iterdir())
