import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import vision
from tljax.data import randaugment

KEY = jax.random.key(0)
THEIRS = {
  'identity': 'Identity',
  'shear_x': 'ShearX',
  'shear_y': 'ShearY',
  'translate_x': 'TranslateX',
  'translate_y': 'TranslateY',
  'rotate': 'Rotate',
  'brightness': 'Brightness',
  'color': 'Color',
  'contrast': 'Contrast',
  'sharpness': 'Sharpness',
  'posterize': 'Posterize',
  'solarize': 'Solarize',
  'autocontrast': 'AutoContrast',
  'equalize': 'Equalize',
}


def image(height=40, width=56):
  return np.random.default_rng(0).random((height, width, 3), np.float32)


def test_the_operations_are_named():
  assert list(randaugment.OPERATIONS) == list(THEIRS)


@pytest.mark.torch
@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('magnitude', [0, 9, 17, 30])
@pytest.mark.parametrize('name', THEIRS)
def test_operations_are_torchvisions(name, magnitude, sign):
  policy = vision.transforms().RandAugment(magnitude=magnitude)
  assert list(policy._AUGMENTATION_SPACE) == list(THEIRS.values())
  space, signed = policy._AUGMENTATION_SPACE[THEIRS[name]]
  magnitudes, amount = space(policy.num_magnitude_bins, 40, 56), 0.0
  if magnitudes is not None:
    amount = float(magnitudes[magnitude]) * (sign if signed else 1)
  expected = policy._apply_image_or_video_transform(
    vision.to_torch(image()), THEIRS[name], amount, policy.interpolation, policy._fill
  )
  strength = jnp.float32(sign * magnitude / 30)
  result = jax.jit(randaugment.OPERATIONS[name])(image(), strength)
  differ = np.abs(result - vision.from_torch(expected)).max(-1) > 2e-6
  # The nearest of two pixels equally far away is a matter of rounding.
  assert differ.mean() <= (0.005 if name in ('shear_x', 'shear_y', 'rotate') else 0)


def test_rotate_by_a_right_angle():
  square = image(9, 9)
  for turns in range(4):
    turned = randaugment.rotate(square, jnp.float32(turns * np.pi / 2))
    np.testing.assert_array_equal(turned, np.rot90(square, turns))


@pytest.mark.parametrize('distance', [-3.0, -0.4, 0.0, 2.9])
def test_translate_moves_right_and_down_by_whole_pixels(distance):
  whole, before = int(distance), image(8, 9)
  padded = np.pad(before, ((9, 9), (9, 9), (0, 0)))
  right = randaugment.translate(before, jnp.float32(distance), 0)
  np.testing.assert_array_equal(right, padded[9:17, 9 - whole : 18 - whole])
  down = randaugment.translate(before, jnp.float32(distance), 1)
  np.testing.assert_array_equal(down, padded[9 - whole : 17 - whole, 9:18])


def test_shear_shifts_each_row_by_its_distance_from_the_top():
  before = image(6, 8)
  sheared = randaugment.shear(before, jnp.float32(1), 0)
  for row in range(6):
    # The middle of row r is r + 1/2 below the top; of two as near, the even one.
    middle = np.round(np.arange(8) + row + 0.5).astype(int)
    expected = np.where((middle < 8)[:, None], before[row, np.minimum(middle, 7)], 0)
    np.testing.assert_array_equal(sheared[row], expected)


def reveal(monkeypatch):
  """Replaces every operation by one that writes its number and strength down."""

  def write(number, image, strength):
    return (image * 14 + number).at[..., 1].set(strength)

  numbered = {
    name: functools.partial(write, i) for i, name in enumerate(randaugment.OPERATIONS)
  }
  monkeypatch.setattr(randaugment, 'OPERATIONS', numbered)


@pytest.mark.parametrize(('magnitude', 'bins'), [(9, 31), (3, 11)])
def test_two_operations_are_drawn_uniformly_with_random_signs(
  magnitude, bins, monkeypatch
):
  reveal(monkeypatch)
  change = randaugment.rand_augment(2, magnitude, bins)
  written = np.asarray(change(KEY, jnp.zeros((14 * 14 * 30, 1, 1, 2))))[:, 0, 0]
  pairs, counts = np.unique(written[:, 0], return_counts=True)
  np.testing.assert_array_equal(pairs, np.arange(14 * 14))
  assert counts.min() > 10 and counts.max() < 55  # 30 +- 5 standard deviations
  strengths, counts = np.unique(written[:, 1], return_counts=True)
  strength = magnitude / (bins - 1)
  np.testing.assert_allclose(strengths, [-strength, strength], rtol=1e-6)
  assert 0.47 < counts[0] / counts.sum() < 0.53


def test_the_number_of_operations(monkeypatch):
  reveal(monkeypatch)
  images = jnp.zeros((50, 1, 1, 2))
  for count in (0, 1, 3):
    numbers = randaugment.rand_augment(count)(KEY, images)[..., 0]
    assert (count == 0) == (numbers.max() == 0) and numbers.max() < 14**count


def test_fixmatch_flips_and_shifts_the_weak_view_and_more_the_strong():
  images = np.tile(image(16, 16)[None], (64, 1, 1, 1))
  views = jax.jit(randaugment.fixmatch())(KEY, images)
  padded = np.pad(images[0], ((2, 2), (2, 2), (0, 0)), 'reflect')
  crops = [padded[y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
  weak = {crop.tobytes() for crop in crops} | {
    crop[:, ::-1].tobytes() for crop in crops
  }
  assert all(np.asarray(view).tobytes() in weak for view in views['image'])
  grey = np.all(np.asarray(views['strong']) == 0.5, -1)
  assert (grey.sum((1, 2)) >= 16).all()  # a quarter of the square at least
