import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.data import batches
from tljax.data.dataset import Dataset
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


def test_pair_drops_the_targets_labels(numbered):
  source, target = (batches.stream(numbered, 4, seed) for seed in (0, 1))
  batch = batches.pair(source, target)(2)
  assert {name: sorted(part) for name, part in batch.items()} == {
    'source': ['image', 'label'],
    'target': ['image'],
  }
  np.testing.assert_array_equal(batch['source']['label'], source(2)['label'])
  np.testing.assert_array_equal(batch['target']['image'], target(2)['image'])


def test_to_float():
  np.testing.assert_allclose(batches.to_float(jnp.uint8([0, 51, 255])), [0, 0.2, 1])
  np.testing.assert_array_equal(batches.to_float(jnp.array([3.0])), [3.0])
