"""Published weights: strict accounting, clear errors, heads old and new."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from tljax import models, weights
from tljax.errors import InputError
from tljax.weights import convert, readers

NAME = 'squeezenet1_1'


@pytest.fixture(scope='module')
def tensors():
  """Random tensors of torchvision's names and shapes, for 5 classes."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    models.create(NAME, 5).init, jax.random.key(0), np.zeros((1, 33, 33, 3), np.float32)
  )
  leaves = {
    path: rng.normal(size=shape.shape).astype(np.float32)
    for path, shape in convert.flatten(shapes).items()
  }
  return convert.store(leaves, models.family(NAME).layouts(NAME)['torchvision'])


@pytest.fixture
def save(tmp_path):
  def save(tensors):
    path = tmp_path / 'weights.safetensors'
    safetensors.numpy.save_file(tensors, path)
    return path

  return save


def test_every_tensor_is_at_its_place(tensors, save, tmp_path):
  params = weights.load(NAME, save(tensors))['params']
  kernel = params['backbone']['stage2']['fire2']['expand3x3']['kernel']
  np.testing.assert_array_equal(
    kernel, tensors['features.4.expand3x3.weight'].transpose(2, 3, 1, 0)
  )
  np.testing.assert_array_equal(
    params['head']['classifier']['bias'], tensors['classifier.1.bias']
  )
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(
    tensor.size for tensor in tensors.values()
  )
  np.savez(tmp_path / 'weights.npz', **tensors)
  again = weights.load(NAME, tmp_path / 'weights.npz')['params']
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_another_number_of_classes_gets_a_new_head(tensors, save, capsys):
  path = save(tensors)
  new = weights.load(NAME, path, 2, key=jax.random.key(1))['params']
  assert new['head']['classifier']['kernel'].shape == (1, 1, 512, 2)
  assert 'new classifier for 2 classes' in capsys.readouterr().err
  old = weights.load(NAME, path, 5)['params']
  assert capsys.readouterr().err == ''
  jax.tree.map(np.testing.assert_array_equal, new['backbone'], old['backbone'])
  assert list(weights.load_backbone(NAME, path)['params']) == ['backbone']


@pytest.mark.parametrize(
  'change, named',
  [
    ({'features.0.weight': np.ones((64, 1, 3, 3), np.float32)}, 'features.0.weight'),
    ({'features.3.squeeze.bias': np.ones(17, np.float32)}, 'features.3.squeeze.bias'),
    ({'features.9.squeeze.bias': None}, 'features.9.squeeze.bias'),
    ({'classifier.1.bias': None}, 'classifier.1.bias'),
    ({'extra.bias': np.ones(1, np.float32)}, 'extra.bias'),
    ({'features.0.bias': np.ones(64, np.int32)}, 'features.0.bias.*int32'),
    ({'features.0.bias': np.full(64, np.nan, np.float32)}, 'features.0.bias.*NaN'),
  ],
)
def test_what_does_not_fit_is_named(tensors, save, change, named):
  changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
  with pytest.raises(InputError, match=named):
    weights.load(NAME, save(changed))


def test_half_precision_is_widened(tensors, save):
  half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
  leaves = jax.tree.leaves(weights.load(NAME, save(half)))
  assert {leaf.dtype for leaf in leaves} == {np.dtype('float32')}


@pytest.mark.parametrize('suffix', ['.safetensors', '.npz'])
@pytest.mark.parametrize('content', [b'', b'garbage' * 9, b'PK\x03\x04 cut short'])
def test_damaged_files_are_one_line(tmp_path, suffix, content):
  path = tmp_path / f'weights{suffix}'
  path.write_bytes(content)
  with pytest.raises(InputError, match='damaged') as error:
    readers.read(path)
  assert '\n' not in str(error.value)


def test_truncated_file(tensors, save):
  path = save(tensors)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(InputError, match='damaged'):
    readers.read(path)


def test_pickles_are_never_opened(tmp_path):
  np.savez(tmp_path / 'evil.npz', x=np.array([print], dtype=object))
  with pytest.raises(InputError, match='damaged'):
    readers.read(tmp_path / 'evil.npz')


def test_missing_files_and_other_kinds(tmp_path):
  with pytest.raises(InputError, match='no such file'):
    readers.read(tmp_path / 'none.safetensors')
  (tmp_path / 'folder.npz').mkdir()
  with pytest.raises(InputError, match='no such file'):
    readers.read(tmp_path / 'folder.npz')
  with pytest.raises(InputError, match='.npz, .safetensors'):
    readers.read('torchvision/imagenet1k_v1')
