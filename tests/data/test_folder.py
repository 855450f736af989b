"""Folders of images: any mode and size, splits, and errors that name the file."""

import numpy as np
import pytest
from PIL import Image

from tljax import data
from tljax.data import folder, images
from tljax.errors import InputError


def paint(path, size=(9, 7), mode='RGB', seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
  Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def pets(tmp_path):
  for k, name in enumerate(('cat', 'dog')):
    for i in range(10):
      paint(tmp_path / 'pets' / name / f'{i}.png', seed=10 * k + i)
  return tmp_path / 'pets'


def test_classes_in_a_folder_are_split_the_same_each_time(pets):
  splits = folder.load(pets, 8)
  assert {name: len(split) for name, split in splits.items()} == {
    'train': 12,
    'validation': 2,
    'test': 6,
  }
  assert splits['train'].classes == ('cat', 'dog')
  assert splits['train'].images.shape == (12, 8, 8, 3)
  rows = np.concatenate([split.images for split in splits.values()])
  assert len(np.unique(rows.reshape(20, -1), axis=0)) == 20
  again = data.load(f'folder:{pets}', 8)
  assert again['train'].fingerprint() == splits['train'].fingerprint()


def test_train_and_val_folders_are_the_splits(tmp_path):
  for split, count in (('train', 3), ('val', 2)):
    for name in ('a', 'b'):
      for i in range(count):
        paint(tmp_path / split / name / f'{i}.jpg')
  splits = folder.load(tmp_path, 8)
  assert {n: len(s) for n, s in splits.items()} == {'train': 6, 'validation': 4}
  (tmp_path / 'val' / 'b').rename(tmp_path / 'val' / 'c')
  with pytest.raises(InputError, match="class 'b' is in only one"):
    folder.load(tmp_path, 8)


@pytest.mark.parametrize(
  'mode, suffix',
  [
    ('RGB', 'jpg'),
    ('L', 'jpeg'),
    ('CMYK', 'jpg'),
    ('RGBA', 'png'),
    ('P', 'png'),
    ('LA', 'png'),
    ('1', 'png'),
  ],
)
def test_any_mode_and_size(tmp_path, mode, suffix):
  paint(tmp_path / f'x.{suffix}', (31, 12), mode)
  image = images.read(tmp_path / f'x.{suffix}', 8, 9)
  assert image.shape == (8, 8, 3) and image.dtype == np.uint8


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
  pixels = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
  Image.fromarray(pixels).save(tmp_path / 'x.png')
  with Image.open(tmp_path / 'x.png') as image:
    grey = np.asarray(images.to_rgb(image))[..., 0]
  np.testing.assert_array_equal(grey, [[0, 100], [200, 255]])


def test_exif_rotation_is_applied(tmp_path):
  image = Image.new('RGB', (10, 20))
  image.paste((255, 255, 255), (0, 0, 10, 10))  # the upper half
  exif = Image.Exif()
  exif[0x0112] = 3  # rotated by 180 degrees
  image.save(tmp_path / 'x.png', exif=exif)
  pixels = images.read(tmp_path / 'x.png', 10, 10)
  assert pixels[0].max() < 128 < pixels[-1].min()


@pytest.mark.parametrize('size', [(40, 23), (23, 40), (33, 33), (5, 9)])
def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(size):
  pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
  image = Image.fromarray(pixels)
  width, height = size
  scale = 16 / min(size)
  shape = (16, int(scale * height)) if width <= height else (int(scale * width), 16)
  resized = np.asarray(image.resize(shape, Image.Resampling.BILINEAR))
  top, left = round((resized.shape[0] - 14) / 2), round((resized.shape[1] - 14) / 2)
  wanted = resized[top : top + 14, left : left + 14]
  np.testing.assert_array_equal(images.evaluate(image, 14, 16), wanted)


def test_corrupt_images_are_named_or_left_out(pets, capsys):
  whole = (pets / 'cat' / '3.png').read_bytes()
  (pets / 'cat' / '3.png').write_bytes(whole[: len(whole) // 2])
  (pets / 'dog' / '0.png').write_text('no image')
  with pytest.raises(InputError, match=r'cat/3\.png.*--skip-corrupt') as error:
    folder.load(pets, 8)
  assert '\n' not in str(error.value)
  splits = folder.load(pets, 8, skip_corrupt=True)
  assert sum(map(len, splits.values())) == 18
  assert 'left out 2 corrupt image(s)' in capsys.readouterr().err


def test_a_class_of_nothing_but_corrupt_images(pets):
  for file in (pets / 'cat').iterdir():
    file.write_text('no image')
  with pytest.raises(InputError, match='cat: no image of this class can be read'):
    folder.load(pets, 8, skip_corrupt=True)


def test_a_decompression_bomb_is_refused(pets, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
  with pytest.raises(InputError, match='decompression bomb'):
    folder.load(pets, 8)


def test_bad_folders(tmp_path, pets):
  with pytest.raises(InputError, match='no such folder'):
    folder.load(tmp_path / 'none', 8)
  (pets / 'empty').mkdir()
  with pytest.raises(InputError, match='empty: holds no image'):
    folder.load(pets, 8)
  (tmp_path / 'one' / 'cat').mkdir(parents=True)
  with pytest.raises(InputError, match=r'1 class folder\(s\)'):
    folder.load(tmp_path / 'one', 8)
  (tmp_path / 'half' / 'train' / 'cat').mkdir(parents=True)
  with pytest.raises(InputError, match='no validation folder'):
    folder.load(tmp_path / 'half', 8)


def test_the_real_set(shared_data):
  splits = folder.load(shared_data / 'hymenoptera', 16)
  assert {n: len(s) for n, s in splits.items()} == {'train': 244, 'validation': 153}
  assert splits['train'].classes == ('ants', 'bees')


@pytest.mark.parametrize('spec', ['nothing', 'folder:', 'tfds:mnist'])
def test_unknown_sets(spec):
  with pytest.raises(InputError, match='choose digits, digits-m or folder:PATH'):
    data.load(spec, 16)


def test_digits_at_another_size():
  splits = data.load('digits', 20)
  assert splits['test'].images.shape[1:] == (20, 20, 3)
