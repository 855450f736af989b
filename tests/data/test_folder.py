"""Folders of images: classes, splits, and errors that name the file."""

import os

import numpy as np
import pytest
from PIL import Image

from tljax import data
from tljax.data import folder
from tljax.errors import InputError


def load(path, **options):
  return data.load(f'folder:{path}', data.Transform(8, 9), **options)


def test_classes_in_a_folder_are_split_the_same_each_time(pets):
  splits = load(pets)
  assert {name: len(split) for name, split in splits.items()} == {
    'train': 12,
    'validation': 2,
    'test': 6,
  }
  assert splits['train'].classes == ('cat', 'dog')
  assert splits['train'].images.shape == (12, 8, 8, 3)
  rows = np.concatenate([split.images for split in splits.values()])
  assert len(np.unique(rows.reshape(20, -1), axis=0)) == 20
  again = load(pets)
  assert again['train'].fingerprint() == splits['train'].fingerprint()


def test_train_and_val_folders_are_the_splits(tmp_path, paint):
  for split, count in (('train', 3), ('val', 2)):
    for name in ('a', 'b'):
      for i in range(count):
        paint(tmp_path / split / name / f'{i}.jpg')
  splits = load(tmp_path)
  assert {n: len(s) for n, s in splits.items()} == {'train': 6, 'validation': 4}
  (tmp_path / 'val' / 'b').rename(tmp_path / 'val' / 'c')
  with pytest.raises(InputError, match="class 'b' is in only one"):
    load(tmp_path)


def test_corrupt_images_are_named_or_left_out(pets, capsys):
  whole = (pets / 'cat' / '3.png').read_bytes()
  (pets / 'cat' / '3.png').write_bytes(whole[: len(whole) // 2])
  (pets / 'dog' / '0.png').write_text('no image')
  with pytest.raises(InputError, match=r'cat/3\.png.*--skip-corrupt') as error:
    load(pets)
  assert '\n' not in str(error.value)
  splits = load(pets, skip_corrupt=True)
  assert sum(map(len, splits.values())) == 18
  assert 'left out 2 corrupt image(s)' in capsys.readouterr().err


def test_a_class_of_nothing_but_corrupt_images(pets):
  for file in (pets / 'cat').iterdir():
    file.write_text('no image')
  with pytest.raises(InputError, match="no image of class 'cat' can be read"):
    load(pets, skip_corrupt=True)


def test_a_decompression_bomb_is_refused(pets, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
  with pytest.raises(InputError, match='decompression bomb'):
    load(pets)


def test_bad_folders(tmp_path, pets):
  with pytest.raises(InputError, match='no such folder'):
    load(tmp_path / 'none')
  (pets / 'empty').mkdir()
  with pytest.raises(InputError, match='empty: holds no image'):
    load(pets)
  (tmp_path / 'one' / 'cat').mkdir(parents=True)
  with pytest.raises(InputError, match=r'1 class folder\(s\)'):
    load(tmp_path / 'one')


def test_a_domain_is_not_taken_for_a_class(pets):
  (pets / 'cat').rename(pets / 'photo')
  (pets / 'photo' / 'cat').mkdir()
  for file in (pets / 'photo').glob('*.png'):
    file.rename(pets / 'photo' / 'cat' / file.name)
  with pytest.raises(
    InputError, match=r'photo: holds no image; .*choose folder:.*photo'
  ):
    load(pets)


def test_files_of_any_name_and_links(pets):
  """Names that are no UTF-8, links, hidden files: nothing is lost, nothing added."""
  file = pets / 'cat' / '0.png'
  file.rename(os.fsdecode(os.fsencode(pets / 'cat') + b'/\xff.png'))
  (pets / 'cat' / '1.png').rename(pets / 'one.png')
  (pets / 'cat' / '1.PNG').symlink_to(pets / 'one.png')
  (pets / 'cat' / '.hidden.png').write_text('no image')
  (pets / 'cat' / 'notes.txt').write_text('no image')
  assert len(folder.read(str(pets))['all']) == 20
  assert sum(map(len, load(pets).values())) == 20


def test_a_link_that_goes_round_is_named(pets):
  (pets / 'cat' / 'a.png').symlink_to(pets / 'cat' / 'b.png')
  (pets / 'cat' / 'b.png').symlink_to(pets / 'cat' / 'a.png')
  (pets / 'dog' / 'up').symlink_to(pets)  # is not followed: images lie in the class
  with pytest.raises(InputError, match=r'cat/[ab]\.png: cannot be read'):
    load(pets)
  assert sum(map(len, load(pets, skip_corrupt=True).values())) == 20


def test_a_class_whose_name_is_no_utf8(pets):
  os.rename(os.fsencode(pets / 'cat'), os.fsencode(pets) + b'/\xff')
  with pytest.raises(InputError, match=r'\\xff.*is not named in UTF-8; rename it'):
    load(pets)


def test_the_real_set(shared_data):
  splits = load(shared_data / 'hymenoptera')
  assert {n: len(s) for n, s in splits.items()} == {'train': 244, 'validation': 153}
  assert splits['train'].classes == ('ants', 'bees')
