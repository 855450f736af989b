import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.data import augment, batches
from tljax.data.dataset import Dataset
from tljax.data.images import Images, Transform
from tljax.data.source import Source
from tljax.errors import InputError

SIZE = 10


@pytest.fixture(scope='module')
def numbered():
  """A set whose labels number its examples, and whose images show the number."""
  numbers = np.arange(SIZE, dtype=np.int32)
  images = np.uint8(np.tile(numbers[:, None, None, None], (1, 2, 2, 3)))
  return Dataset(images, numbers, tuple(map(str, numbers)))


def labels(stream, steps):
  return np.concatenate([stream(step)['label'] for step in steps])


@pytest.mark.parametrize('batch_size', [1, 3, 4, 7, 10])
def test_every_pass_holds_every_example_once(numbered, batch_size):
  stream = batches.stream(numbered, batch_size, seed=0)
  epochs = 3
  steps = batches.steps_for(numbered, epochs, batch_size)
  seen = labels(stream, range(steps))[: epochs * SIZE].reshape(epochs, SIZE)
  np.testing.assert_array_equal(np.sort(seen, 1), np.tile(np.arange(SIZE), (3, 1)))
  assert len({tuple(order) for order in seen}) == epochs


def test_a_batch_is_a_function_of_seed_and_step(numbered):
  first, again = (batches.stream(numbered, 4, seed=1) for _ in range(2))
  forwards = labels(first, range(8))
  backwards = labels(again, reversed(range(8))).reshape(8, 4)[::-1].ravel()
  np.testing.assert_array_equal(forwards, backwards)
  other = labels(batches.stream(numbered, 4, seed=2), range(8))
  assert not np.array_equal(forwards, other)


def test_images_are_float_in_the_unit_interval_and_keep_their_labels(numbered):
  batch = batches.stream(numbered, 7, seed=0)(1)
  assert batch['image'].dtype == jnp.float32 and batch['image'].shape == (7, 2, 2, 3)
  np.testing.assert_allclose(
    batch['image'][:, 0, 0, 0] * 255, batch['label'], rtol=1e-5
  )


def test_augmentation_is_a_function_of_seed_and_step(numbered):
  def noise(key, images):
    return images * 0 + jax.random.uniform(key)

  def drawn(seed, step):
    return float(batches.stream(numbered, 4, seed, noise)(step)['image'][0, 0, 0, 0])

  assert drawn(0, 3) == drawn(0, 3)
  assert len({drawn(0, 3), drawn(0, 4), drawn(1, 3)}) == 3


def test_features_pass_unchanged():
  features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  stream = batches.stream(Dataset(features, np.arange(5, dtype=np.int32), ()), 5, 0)
  batch = stream(0)
  np.testing.assert_array_equal(batch['image'], features[batch['label']])


@pytest.mark.parametrize('batch_size', [0, -1, SIZE + 1])
def test_a_batch_that_does_not_fit_is_refused(numbered, batch_size):
  message = f'--batch-size is {batch_size} and the set has 10 .*choose 1 to 10'
  with pytest.raises(InputError, match=message):
    batches.stream(numbered, batch_size, seed=0)


@pytest.mark.parametrize('epochs', [0, -2])
def test_no_epochs_are_refused(numbered, epochs):
  with pytest.raises(InputError, match=f'--epochs is {epochs}'):
    batches.steps_for(numbered, epochs, 4)


@pytest.mark.parametrize(
  ('epochs', 'batch_size', 'steps'), [(1, 10, 1), (1, 4, 3), (2, 4, 5), (3, 7, 5)]
)
def test_steps_for_rounds_up(numbered, epochs, batch_size, steps):
  assert batches.steps_for(numbered, epochs, batch_size) == steps


def by_role(stream, step, role):
  return stream.finish(stream.read(step, role), np.uint32(step), role)


def test_pair_drops_the_targets_labels(numbered):
  source, target = (batches.stream(numbered, 4, seed) for seed in (0, 1))
  batch = batches.pair(source, target)(2)
  assert {name: sorted(part) for name, part in batch.items()} == {
    'source': ['image', 'label'],
    'target': ['image'],
  }
  for name in ('image', 'label'):
    np.testing.assert_array_equal(batch['source'][name], source(2)[name])
  own = by_role(target, 2, batches._TARGET)
  np.testing.assert_array_equal(batch['target']['image'], own['image'])


def test_a_third_stream_keeps_its_labels(numbered):
  source, target, few = (batches.stream(numbered, 4, seed) for seed in (0, 1, 2))
  batch = batches.pair(source, target, few)(2)
  assert list(batch) == ['source', 'target', 'labelled']
  assert list(batch['target']) == ['image']
  own = by_role(few, 2, batches._LABELLED)
  for name in ('image', 'label'):
    np.testing.assert_array_equal(batch['source'][name], source(2)[name])
    np.testing.assert_array_equal(batch['labelled'][name], own[name])


def test_joined_batches_follow_each_other(numbered):
  both = [batches.stream(numbered, size, seed) for size, seed in ((4, 0), (3, 1))]
  joined = batches.join(*both)(2)
  own = [by_role(stream, 2, batches._JOINED + i) for i, stream in enumerate(both)]
  for name in ('image', 'label'):
    wanted = np.concatenate([part[name] for part in own])
    np.testing.assert_array_equal(joined[name], wanted)


def _parts(kind, streams):
  """The images of the first and second of `streams`, by step, of what they make."""
  if kind == 'join':
    joined = batches.join(*streams)
    return lambda step: jnp.split(joined(step)['image'], 2)
  if kind == 'labelled':
    both = batches.pair(streams[0], *streams)
    return lambda step: [both(step)[k]['image'] for k in ('target', 'labelled')]
  both = batches.pair(*streams)
  return lambda step: [both(step)[k]['image'] for k in ('source', 'target')]


@pytest.mark.parametrize('balanced', [False, True])
@pytest.mark.parametrize('kind', ['pair', 'labelled', 'join'])
def test_domains_of_one_size_do_not_go_hand_in_hand(kind, balanced):
  """Sorted by class, they would else show a source label for each target image."""
  labels = np.repeat(np.int32([0, 1]), 30)
  images = np.arange(60, dtype=np.float32)[:, None]
  domain = Dataset(images, labels, ('a', 'b'))
  first, second = (batches.stream(domain, 12, 0, balanced=balanced) for _ in range(2))
  parts = _parts(kind, (first, second))
  rows = np.stack([np.asarray(parts(step))[..., 0] for step in range(50)], 1)
  same = rows[0] == rows[1]
  assert same.mean() < 0.1  # 1 in 60 by chance, or in 30 of those of a class
  if not balanced:
    assert (
      0.4 < (labels[rows[0].astype(int)] == labels[rows[1].astype(int)]).mean() < 0.6
    )
  for part in rows:
    np.testing.assert_array_equal(np.bincount(part.astype(int).ravel()), [10] * 60)


def test_nor_do_their_augmentations_and_crops():
  ramp = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
  alike, names = np.tile(ramp, (10, 1, 1, 3)), tuple(map(str, range(10)))
  in_memory = Dataset(alike, np.arange(10, dtype=np.int32), names)
  source = Source(alike, in_memory.labels, names, 'here', 'digest')
  as_used = dataclasses.replace(in_memory, images=Images(source, Transform(8)))

  def noise(key, images):
    return jax.random.uniform(key, images.shape)

  crop = augment.RandomResizedCrop(5)
  for stream in (
    batches.stream(in_memory, 4, 0, noise),
    batches.stream(in_memory, 4, 0, crop=crop),
    batches.stream(as_used, 4, 0, crop=crop),
  ):
    first, second = _parts('pair', [stream, stream])(0)
    for image in second:  # of none of the first's
      assert np.abs(first - image[None]).max((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize('balanced', [False, True])
def test_processes_read_their_shares_of_the_same_batches(numbered, balanced):
  whole, *parts = (
    batches.stream(numbered, 6, seed=1, balanced=balanced, process=process)
    for process in ((0, 1), (0, 2), (1, 2))
  )
  for step in range(5):
    both = [part.read(step) for part in parts]
    for name, array in whole.read(step).items():
      np.testing.assert_array_equal(np.concatenate([b[name] for b in both]), array)
  with pytest.raises(InputError, match='multiple of the 4 processes'):
    batches.stream(numbered, 6, seed=1, process=(0, 4))


def test_balanced_batches_hold_every_class_alike():
  classes = np.int32([0] * 50 + [1] * 7 + [2] * 3)
  images = np.arange(60, dtype=np.float32)[:, None]
  stream = batches.stream(
    Dataset(images, classes, ('a', 'b', 'c')), 6, 0, balanced=True
  )
  seen = np.concatenate([stream(step)['image'][:, 0] for step in range(50)]).astype(int)
  np.testing.assert_array_equal(np.bincount(classes[seen]), [100, 100, 100])
  counts = np.bincount(seen, minlength=60)
  assert set(counts[:50]) == {2} and set(counts[50:57]) <= {14, 15}
  assert set(counts[57:]) <= {33, 34}
  with pytest.raises(InputError, match='every class'):
    batches.stream(Dataset(images, classes, tuple('abcd')), 6, 0, balanced=True)


def test_a_pair_goes_round_at_either_pace(numbered):
  few = numbered.take(np.arange(4))
  both = batches.pair(batches.stream(numbered, 4, 0), batches.stream(few, 4, 1))
  source = np.concatenate([both(step)['source']['label'] for step in range(5)])
  target = [both(step)['target']['image'][:, 0, 0, 0] * 255 for step in range(5)]
  np.testing.assert_array_equal(np.bincount(source), [2] * SIZE)
  for images in target:
    np.testing.assert_allclose(np.sort(images), np.arange(4), atol=1e-4)


def test_views_and_mixed_labels_join_the_batch(numbered):
  def views(key, images):
    return {'image': images, 'strong': 1 - images}

  def mix(key, images, labels):
    return images[::-1], jax.nn.one_hot(labels, SIZE)

  plain, both = (batches.stream(numbered, 4, 0, a)(2) for a in (None, views))
  np.testing.assert_array_equal(both['image'], plain['image'])
  np.testing.assert_array_equal(both['strong'], 1 - plain['image'])
  mixed = batches.stream(numbered, 4, 0, mix=mix)(2)
  np.testing.assert_array_equal(mixed['image'], plain['image'][::-1])
  assert mixed['label'].shape == (4, SIZE)


@pytest.fixture
def lazy(numbered):
  source = Source(numbered.images, numbered.labels, numbered.classes, 'here', 'digest')
  return dataclasses.replace(numbered, images=Images(source, Transform(2)))


def test_reading_ahead_gives_the_same_batches_from_any_step(numbered, lazy):
  stream = batches.stream(numbered, 4, 0)
  for other in (stream, batches.stream(lazy, 4, 0)):
    with contextlib.closing(batches.read_ahead(other, 3, 9)) as ahead:
      for step, batch in enumerate(ahead, 3):
        for name, array in stream.read(step).items():
          np.testing.assert_array_equal(batch[name], array)
    assert step == 8


def test_crops_of_images_decoded_as_used_are_a_function_of_seed_and_step(
  lazy, numbered
):
  options = {'crop': augment.RandomResizedCrop(5)}
  first, again, other = (
    batches.stream(lazy, 4, seed, **options).read(3) for seed in (0, 0, 1)
  )
  assert first['image'].shape == (4, 5, 5, 3)
  np.testing.assert_array_equal(first['image'], again['image'])
  # Each of these images has one colour, which is the label.
  for batch in (first, other):
    np.testing.assert_array_equal(batch['image'][:, 1, 2, 0], batch['label'])
  shares = [
    batches.stream(lazy, 4, 0, process=(i, 2), **options).read(3)['image']
    for i in (0, 1)
  ]
  np.testing.assert_array_equal(np.concatenate(shares), first['image'])
  in_memory = batches.stream(numbered, 4, 0, **options)
  assert in_memory.read(3)['image'].shape == (4, 2, 2, 3)
  assert in_memory(3)['image'].shape == (4, 5, 5, 3)


def test_worker_processes_give_the_same_batches(lazy):
  stream = batches.stream(lazy, 4, 0, workers=2)
  assert stream.workers == 2
  with contextlib.closing(batches.read_ahead(stream, 1, 8)) as ahead:
    for step, batch in enumerate(ahead, 1):
      for name, array in stream.read(step).items():
        np.testing.assert_array_equal(batch[name], array)
  assert step == 7


def test_an_unreadable_image_is_named_as_it_is_used(lazy):
  items = [*lazy.images.source.items]
  items[6] = b'no image'
  source = dataclasses.replace(lazy.images.source, items=items)
  dataset = dataclasses.replace(lazy, images=Images(source, Transform(2)))
  with contextlib.closing(
    batches.read_ahead(batches.stream(dataset, 4, 0), 0, 3)
  ) as ahead:
    with pytest.raises(InputError, match='here, row 6: cannot be read as an image'):
      list(ahead)


def test_merged_sources_say_their_domain(domains):
  one, two = (
    batches.stream(domains[name]['train'], 8, seed=3) for name in ('digits', 'digits-m')
  )
  assert batches.merge(one) is one
  batch = batches.merge(one, two)(5)
  np.testing.assert_array_equal(batch['domain'], [0] * 8 + [1] * 8)
  assert batch['domain'].dtype == np.int32
  for k, name in enumerate(('digits', 'digits-m')):
    of, own = domains[name]['train'], slice(8 * k, 8 * k + 8)
    shown = np.asarray(batch['image'][own])[:, None] - of.images[None] / 255
    rows = np.abs(shown).max((2, 3, 4)).argmin(1)
    np.testing.assert_allclose(shown[np.arange(8), rows], 0, atol=1e-6)
    np.testing.assert_array_equal(batch['label'][own], of.labels[rows])
