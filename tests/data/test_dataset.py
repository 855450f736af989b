import numpy as np
import pytest

from tljax.data.dataset import Dataset, check_same_classes, stratified
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


def test_check_same_classes():
  check_same_classes(dataset(), dataset())
  fewer = dataset(classes=('a', 'b'))
  for pair, where in [((dataset(), fewer), 'source'), ((fewer, dataset()), 'target')]:
    with pytest.raises(InputError, match=f"class 'c' is in the {where} only"):
      check_same_classes(*pair)


def test_shots_are_of_classes():
  targets = Dataset(np.zeros((3, 2), np.float32), np.zeros(3, np.float32), ())
  with pytest.raises(InputError, match='--shots counts examples of classes'):
    targets.shots(1, seed=0)
