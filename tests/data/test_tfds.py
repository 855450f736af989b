"""Prepared tensorflow-datasets, read without TensorFlow."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tljax import data
from tljax.errors import InputError

CLASSES = ['cat', 'cow', 'dog']


def pixels(i):
  return np.random.default_rng(i).integers(0, 256, (9, 7, 3), np.uint8)


def png(i):
  file = io.BytesIO()
  Image.fromarray(pixels(i)).save(file, 'PNG')
  return file.getvalue()


class Pets(tfds.core.GeneratorBasedBuilder):
  """Encoded images: preparing them wants no TensorFlow either."""

  VERSION = tfds.core.Version('1.0.0')
  unlabelled = ()

  def _info(self):
    features = {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'label': tfds.features.ClassLabel(names=CLASSES),
    }
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features), supervised_keys=('image', 'label')
    )

  def _split_generators(self, _):
    return {
      'train': self._generate_examples(0, 30),
      'test': self._generate_examples(30, 9),
    }

  def _generate_examples(self, start, count):
    for i in range(start, start + count):
      yield i, {'image': png(i), 'label': -1 if i in self.unlabelled else i % 3}


def prepare(folder, unlabelled=()):
  """Returns the folder of the prepared version."""
  builder = Pets(data_dir=folder, file_format='array_record')
  builder.unlabelled = unlabelled
  builder.download_and_prepare()
  return builder.data_dir


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  return prepare(tmp_path_factory.mktemp('tfds'))


@pytest.mark.filterwarnings('ignore')
def test_splits_images_and_labels(prepared):
  splits = data.loading.read(f'tfds:{prepared}')
  assert {k: len(s) for k, s in splits.items()} == {'train': 30, 'test': 9}
  test = splits['test']
  assert test.classes == tuple(CLASSES)
  rows = [next(i for i in range(30, 39) if png(i) == test[k]) for k in range(9)]
  assert sorted(rows) == list(range(30, 39))
  assert list(test.labels) == [i % 3 for i in rows]


@pytest.mark.filterwarnings('ignore')
def test_it_is_decoded_as_files_are(prepared):
  loaded = data.load(f'tfds:{prepared}', data.Transform(6, 7))
  lazy = data.load(f'tfds:{prepared}', data.Transform(6, 7), memory=0)
  for name, count in (('train', 27), ('validation', 3), ('test', 9)):
    assert len(loaded[name]) == count
    np.testing.assert_array_equal(lazy[name].images[:], loaded[name].images)
  wanted = {
    data.Transform(6, 7)(Image.fromarray(pixels(i))).tobytes() for i in range(30)
  }
  assert {image.tobytes() for image in loaded['train'].images} < wanted


@pytest.mark.filterwarnings('ignore')
def test_a_split_without_labels_is_left_out(tmp_path):
  splits = data.loading.read(f'tfds:{prepare(tmp_path, range(30, 39))}')
  whole = splits['all']
  assert list(splits) == ['all'] and whole.classes == tuple(CLASSES)
  rows = [next(i for i in range(30) if png(i) == whole[k]) for k in range(30)]
  assert list(whole.labels) == [i % 3 for i in rows]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
  ('unlabelled', 'named'),
  [([31, 35], r'row \d of the test split has no label'), (range(39), 'no example has')],
)
def test_missing_labels(tmp_path, unlabelled, named):
  with pytest.raises(InputError, match=f'^tfds:.*: {named}'):
    data.loading.read(f'tfds:{prepare(tmp_path, unlabelled)}')


@pytest.mark.filterwarnings('ignore')
def test_sets_that_are_not_there(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  for name in ('no_such_set', str(tmp_path)):
    with pytest.raises(InputError, match='there is no such set') as error:
      data.load(f'tfds:{name}', data.Transform(6))
    assert '\n' not in str(error.value)
  with pytest.raises(InputError, match="not prepared .*tfds.builder.'mnist'") as error:
    data.load('tfds:mnist', data.Transform(6))
  assert '\n' not in str(error.value)
