"""What a survey finds in small folders."""

import numpy as np
import pytest
from PIL import Image

from tljax.data import survey
from tljax.data.source import Source
from tljax.errors import InputError


def photograph(seed, size=(240, 160)):
  """Smooth, as photographs are: noise would not survive a change of size."""
  coarse = np.random.default_rng(seed).integers(60, 200, (6, 9, 3), np.uint8)
  return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def splits(tmp_path):
  """Eight photographs in either split; three of the test split are copies."""

  def save(image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name

  train = [save(photograph(i), f'{i}.png') for i in range(8)]
  test = [save(photograph(100 + i), f't{i}.png') for i in range(5)]
  test += [
    save(photograph(3), 'copy.png'),
    save(photograph(4), 'again.jpg', quality=80),
    save(photograph(5).resize((180, 120), Image.Resampling.LANCZOS), 'small.png'),
  ]
  labels = np.arange(8, dtype=np.int32) % 2
  sources = {
    'train': Source(train, labels, ('a', 'b'), 'here'),
    'test': Source(test, np.int32([0, 1, 0, 1, 0, 1, 1, 1]), ('a', 'b'), 'here'),
  }
  return {name: survey.survey(source) for name, source in sources.items()}


def test_duplicates_across_splits_are_found(splits):
  found = survey.duplicates(splits)
  names = [(d.first.split('/')[-1], d.second.split('/')[-1]) for d in found]
  assert names == [
    ('3.png', 'copy.png'),
    ('4.png', 'again.jpg'),
    ('5.png', 'small.png'),
  ]
  assert [d.exact for d in found] == [True, False, False]
  assert [d.same_label for d in found] == [True, False, True]


def test_images_of_one_grey_are_alike_if_they_are_equal():
  one, other = (
    survey.survey(
      Source(np.uint8(pixels), np.zeros(len(pixels), np.int32), ('a',), 'x')
    )
    for pixels in (np.full((1, 9, 9), 7), np.full((2, 9, 9), [[[8]], [[7]]]))
  )
  (pair,) = survey.duplicates({'train': one, 'test': other})
  assert (pair.first, pair.second, pair.exact) == ('x, row 0', 'x, row 1', True)


def test_counts_sizes_and_modes(splits, tmp_path):
  assert splits['train'].counts() == {'a': 4, 'b': 4}
  assert splits['test'].facts() == {
    'images': '8',
    'smallest': '180x120',
    'median': '240x160',
    'largest': '240x160',
    'modes': '8 RGB',
    'corrupt': '0',
  }


def test_corrupt_images_are_named_and_counted(splits, tmp_path):
  (tmp_path / '2.png').write_bytes(b'no image')
  (tmp_path / '6.png').write_bytes((tmp_path / '6.png').read_bytes()[:-300])
  looked = survey.survey(splits['train'].source)
  assert [message.split(': ')[0][-5:] for message in looked.corrupt] == [
    '2.png',
    '6.png',
  ]
  assert looked.facts()['corrupt'] == '2'
  np.testing.assert_array_equal(looked.good(), [0, 1, 3, 4, 5, 7])
  assert len(survey.duplicates({**splits, 'train': looked})) == 3
  pictures = looked.pictures(3, size=8)
  assert {k: len(v) for k, v in pictures.items()} == {'a': 2, 'b': 3}
  assert pictures['b'].shape == (3, 8, 8, 3)


def test_not_all_images_wait_for_a_thread_at_once(blocks):
  pixels = np.zeros((1500, 4, 4), np.uint8)
  labels = np.zeros(1500, np.int32)
  looked = survey.survey(Source(pixels, labels, ('a',), 'here'))
  assert len(looked.good()) == 1500 and blocks == [1024, 476]


def test_a_regression_has_targets():
  pixels = np.zeros((3, 4, 4), np.uint8)
  looked = survey.survey(Source(pixels, np.float32([1, 2, 3]), (), 'here'))
  assert looked.counts() == {'targets': 3}
  assert list(looked.pictures(2)) == ['targets']


def test_features_have_no_pictures():
  source = Source(np.zeros((3, 5), np.float32), np.zeros(3, np.int32), ('a',), 'here')
  with pytest.raises(InputError, match='here: holds features'):
    survey.survey(source)
