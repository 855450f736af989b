"""Sets by name: splits, subsets, corrupt files, and what stays in memory."""

import dataclasses

import numpy as np
import pytest

from tljax import data
from tljax.data.images import Images
from tljax.data.loading import decode, split
from tljax.data.source import Source
from tljax.errors import InputError

TRANSFORM = data.Transform(8, 9)


def source(count=40, classes=('a', 'b')):
  items = np.zeros((count, 3, 3), np.uint8)
  return Source(items, np.arange(count, dtype=np.int32) % len(classes), classes, 'here')


def sizes(splits):
  return {name: len(part) for name, part in splits.items()}


@pytest.mark.parametrize('names', [['test'], ['validation'], ['validation', 'test']])
def test_a_set_without_a_training_split(tmp_path, names):
  rows = ''.join(f'{i},{i % 2},{names[i % len(names)]}\n' for i in range(20))
  (tmp_path / 'rows.csv').write_text(f'x,y,split\n{rows}')
  with pytest.raises(InputError, match='has no training split'):
    data.load(f'csv:{tmp_path}/rows.csv?features=all&target=y', TRANSFORM)


@pytest.mark.parametrize('spec', ['nothing', 'folder:', 'ftp:mnist'])
def test_unknown_sets(spec):
  with pytest.raises(InputError, match='choose digits, digits-m or one of folder:PATH'):
    data.load(spec, TRANSFORM)


def test_digits_at_another_size():
  splits = data.load('digits', data.Transform(20, 24))
  assert splits['test'].images.shape[1:] == (20, 20, 3)
  plain = data.load('digits', data.Transform(20))
  np.testing.assert_array_equal(splits['test'].images, plain['test'].images)


@pytest.mark.parametrize(
  ('given', 'share', 'wanted'),
  [
    (['all'], None, {'train': 24, 'validation': 4, 'test': 12}),
    (['all'], 0.2, {'train': 20, 'validation': 8, 'test': 12}),
    (['train'], None, {'train': 24, 'validation': 4, 'test': 12}),
    (['train', 'test'], None, {'train': 36, 'validation': 4, 'test': 40}),
    (['train', 'test'], 0.25, {'train': 30, 'validation': 10, 'test': 40}),
    (['train', 'validation'], None, {'train': 40, 'validation': 40}),
  ],
)
def test_a_set_is_split_where_it_is_not(given, share, wanted):
  parts = split({name: source() for name in given}, share)
  assert sizes(parts) == wanted
  for part in parts.values():
    assert abs(np.sum(part.labels == 0) - np.sum(part.labels == 1)) <= 1
  again = split({name: source() for name in given}, share)
  assert all(np.array_equal(parts[k].rows, again[k].rows) for k in parts)


@pytest.mark.parametrize('share', [0.01, 0.1, 0.35, 0.5, 0.65])
@pytest.mark.parametrize('count', [20, 41, 333])
def test_the_parts_of_a_set_are_disjoint_and_together_whole(share, count):
  parts = split({'all': source(count)}, share)
  rows = np.concatenate([part.rows for part in parts.values()])
  np.testing.assert_array_equal(np.sort(rows), np.arange(count))


@pytest.mark.parametrize('share', [0.0, 0.7, 0.9, 1.0, -0.1, float('nan')])
def test_a_share_that_leaves_nothing_to_train_on(share):
  wanted = f'--val-fraction is {share}; choose one between 0 and 0.7, since 0.3 of'
  with pytest.raises(InputError, match=wanted):
    split({'all': source()}, share)


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_a_share_of_a_set_with_a_test_split(share):
  with pytest.raises(InputError, match='choose one between 0 and 1$'):
    split({'train': source(), 'test': source()}, share)
  assert len(split({'train': source(), 'test': source()}, 0.8)['train']) == 8


def test_a_class_too_small_to_train_on():
  labels = np.int32([0] * 40 + [1])
  few = dataclasses.replace(source(41), labels=labels)
  with pytest.raises(InputError, match=r"here: class 'b' .*\(1\).* on 20% of them; l"):
    split({'all': few}, 0.5)
  assert len(np.unique(split({'all': few})['train'].labels)) == 2


def test_a_share_of_a_set_that_is_split():
  with pytest.raises(InputError, match='validation split of its own'):
    split({'train': source(), 'validation': source()}, 0.1)


def test_classes_are_kept_in_the_order_asked_for(pets, paint):
  for i in range(10):
    paint(pets / 'cow' / f'{i}.png', seed=100 + i)
  whole = data.load(f'folder:{pets}', TRANSFORM)
  some = data.load(f'folder:{pets}', TRANSFORM, classes=('dog', 'cat'))
  for name, part in some.items():
    assert part.classes == ('dog', 'cat')
    of_all = whole[name]
    kept = [of_all.classes[k] != 'cow' for k in of_all.labels]
    np.testing.assert_array_equal(part.images, of_all.images[kept])
    names = [part.classes[k] for k in part.labels]
    assert names == [of_all.classes[k] for k in of_all.labels[kept]]
  with pytest.raises(InputError, match="no class 'emu'; choose from cat, cow, dog"):
    data.load(f'folder:{pets}', TRANSFORM, classes=('cat', 'emu'))


def test_what_does_not_fit_in_memory_is_decoded_when_used(pets):
  spec, size = f'folder:{pets}', 20 * 8 * 8 * 3
  whole, same, lazy = (
    data.load(spec, TRANSFORM, memory=memory) for memory in (10**9, size, size - 1)
  )
  for name in whole:
    assert isinstance(same[name].images, np.ndarray)
    assert isinstance(lazy[name].images, Images)
    np.testing.assert_array_equal(lazy[name].images[:], whole[name].images)
    np.testing.assert_array_equal(lazy[name].labels, whole[name].labels)
  shots = lazy['train'].shots(2, seed=0)
  np.testing.assert_array_equal(shots.images[:], whole['train'].shots(2, seed=0).images)
  prints = {lazy[name].fingerprint() for name in lazy}
  assert len(prints) == 3 and len(lazy['train'].fingerprint()) == 16


@pytest.mark.parametrize('memory', [10**9, 0])
def test_corrupt_files(pets, memory, capsys):
  spec = f'folder:{pets}'
  (pets / 'dog' / '0.png').write_text('no image')
  with pytest.raises(InputError, match=r'dog/0\.png: cannot be read'):
    data.load(spec, TRANSFORM, memory=memory)
  path = pets / 'cat' / '3.png'
  path.write_bytes(path.read_bytes()[:-90])
  kept = data.load(spec, TRANSFORM, memory=memory, skip_corrupt=True)
  assert sum(sizes(kept).values()) == 18
  assert sum(len(part.images[:]) for part in kept.values()) == 18
  assert 'left out 2 corrupt image(s), such as' in capsys.readouterr().err


def test_not_all_images_wait_for_a_thread_at_once(blocks):
  decoded, _ = decode(source(2100), TRANSFORM, False, True)
  assert len(decoded) == 2100 and blocks == [1024, 1024, 52]


def test_training_images_of_another_transform(pets):
  splits = data.load(f'folder:{pets}', TRANSFORM, train_transform=TRANSFORM.uncropped)
  plain = data.load(f'folder:{pets}', data.Transform(9, 9))
  np.testing.assert_array_equal(splits['train'].images, plain['train'].images)
  assert splits['test'].images.shape[1:] == (8, 8, 3)


def test_too_few_examples(tmp_path, paint):
  for name in 'ab':
    paint(tmp_path / name / '0.png')
  with pytest.raises(InputError, match='too few examples: none is in the'):
    data.load(f'folder:{tmp_path}', TRANSFORM)
