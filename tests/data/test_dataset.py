import numpy as np
import pytest

from tljax.data.dataset import Dataset, match_classes, stratified
from tljax.errors import InputError

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 20, 31]))
SPLIT = {'train': 0.6, 'validation': 0.1, 'test': 0.3}


def dataset(**changes):
  images = np.arange(61 * 4, dtype=np.uint8).reshape(61, 2, 2, 1)
  parts = {'images': images, 'labels': np.int32(LABELS), 'classes': ('a', 'b', 'c')}
  return Dataset(**{**parts, **changes})


@pytest.mark.parametrize('seed', range(3))
def test_stratified_is_disjoint_and_complete_in_proportion(seed):
  parts = stratified(LABELS, SPLIT, seed)
  everything = np.concatenate(list(parts.values()))
  assert sorted(everything) == list(range(61))
  for name, share in SPLIT.items():
    assert np.all(np.diff(parts[name]) > 0)
    for k, size in enumerate([10, 20, 31]):
      assert abs(np.sum(LABELS[parts[name]] == k) - share * size) <= 1


def test_stratified_is_fixed_by_the_seed():
  first, again, other = (stratified(LABELS, SPLIT, seed)['test'] for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_take_keeps_images_and_labels_together():
  taken = dataset().take(np.array([5, 2]))
  assert len(taken) == 2 and taken.classes == ('a', 'b', 'c')
  np.testing.assert_array_equal(taken.images, dataset().images[[5, 2]])
  np.testing.assert_array_equal(taken.labels, LABELS[[5, 2]])


def test_shots_are_distinct_and_the_same_number_of_each_class():
  shots = dataset().shots(10, seed=0)
  np.testing.assert_array_equal(np.bincount(shots.labels), [10, 10, 10])
  drawn = {image.tobytes() for image in shots.images}
  assert len(drawn) == 30
  pairs = {
    (image.tobytes(), k) for image, k in zip(shots.images, shots.labels, strict=True)
  }
  whole = dataset()
  assert pairs <= {
    (image.tobytes(), k) for image, k in zip(whole.images, whole.labels, strict=True)
  }


def test_shots_are_fixed_by_the_seed():
  first, again, other = (dataset().shots(5, seed).images for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_too_many_shots_name_the_class():
  with pytest.raises(InputError, match="class 'a' has 10 examples, fewer than the 11"):
    dataset().shots(11, seed=0)


@pytest.mark.parametrize(
  'changes',
  [
    {'images': np.zeros((61, 2, 2, 1), np.uint8)},
    {'images': np.arange(61 * 4, dtype=np.uint8).reshape(61, 4, 1, 1)},
    {'labels': np.int32(LABELS[::-1])},
    {'classes': ('a', 'b', 'd')},
  ],
  ids=['images', 'shape', 'labels', 'classes'],
)
def test_fingerprint_tells_sets_apart(changes):
  assert dataset().fingerprint() == dataset().fingerprint()
  assert len(dataset().fingerprint()) == 16
  assert dataset(**changes).fingerprint() != dataset().fingerprint()


def test_classes_are_kept_and_numbered_by_name():
  whole = dataset()
  kept = whole.keep_classes(('c', 'a'))
  assert kept.classes == ('c', 'a') and len(kept) == 41
  rows = np.flatnonzero(LABELS != 1)
  np.testing.assert_array_equal(kept.images, whole.images[rows])
  np.testing.assert_array_equal(kept.labels, np.where(LABELS[rows] == 2, 0, 1))
  assert whole.keep_classes(('a', 'b', 'c')) is whole
  with pytest.raises(InputError, match="no class 'd'; choose from a, b, c"):
    whole.keep_classes(('a', 'd'))


def test_domains_of_the_same_classes_match_in_the_sources_order():
  source, target = dataset().keep_classes(('b', 'a')), dataset().keep_classes('ab')
  matched = match_classes({'train': source}, {'train': target})
  assert [part['train'].classes for part in matched] == [('b', 'a')] * 2
  named = [
    np.array(part.classes)[part.labels] for part in (target, matched[1]['train'])
  ]
  np.testing.assert_array_equal(*named)


def test_a_partial_target_is_labelled_by_the_sources_classes():
  target = {'train': dataset().keep_classes(('a', 'c')), 'test': dataset()}
  target['test'] = target['test'].keep_classes(('a', 'c'))
  source, target = match_classes({'train': dataset()}, target, 'partial')
  assert source['train'].classes == target['test'].classes == ('a', 'b', 'c')
  np.testing.assert_array_equal(np.bincount(target['train'].labels), [10, 0, 31])
  np.testing.assert_array_equal(target['test'].labels, LABELS[LABELS != 1])


def test_an_open_targets_other_classes_are_unknown():
  source = {'train': dataset().keep_classes(('b',))}
  source, target = match_classes(source, {'train': dataset()}, 'open')
  source, target = source['train'], target['train']
  assert source.classes == target.classes == ('b', 'unknown')
  assert set(source.labels) == {0} and len(source) == 20
  np.testing.assert_array_equal(target.labels, np.where(LABELS == 1, 0, 1))
  assert len(target) == 61 and target.labels.dtype == np.int32


@pytest.mark.parametrize(
  ('source', 'target', 'setting', 'match'),
  [
    ('abc', 'ab', 'closed', "'c' is in the source only.*--source-classes, or.*partial"),
    ('ab', 'abc', 'closed', "'c' is in the target only.*--target-classes, or.*open"),
    ('ab', 'abc', 'partial', "'c' is in the target only.*--target-classes$"),
    ('abc', 'ab', 'open', "'c' is in the source only.*--source-classes$"),
    ('ab', 'ab', 'open', 'the target has no class that the source lacks'),
  ],
)
def test_domains_that_do_not_match(source, target, setting, match):
  both = ({'train': dataset().keep_classes(names)} for names in (source, target))
  with pytest.raises(InputError, match=match):
    match_classes(*both, setting)


def test_shots_are_of_classes():
  targets = Dataset(np.zeros((3, 2), np.float32), np.zeros(3, np.float32), ())
  with pytest.raises(InputError, match='--shots counts examples of classes'):
    targets.shots(1, seed=0)
