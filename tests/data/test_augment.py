import jax
import numpy as np
import pytest

from tljax.data import augment

CHANGES = {
  augment.invert_contrast: lambda image: np.float32(1) - image,
  augment.flip: lambda image: image[:, ::-1],
}


@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
def test_each_image_is_changed_whole_half_the_time(change):
  images = np.random.default_rng(0).random((400, 3, 4, 3), np.float32)
  changed = []
  for before, after in zip(images, change(jax.random.key(0), images), strict=True):
    is_changed = np.array_equal(after, CHANGES[change](before))
    assert is_changed or np.array_equal(after, before)
    changed.append(is_changed)
  assert 0.4 < np.mean(changed) < 0.6


@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
def test_the_key_decides(change):
  images = np.random.default_rng(0).random((50, 2, 2, 1), np.float32)
  first, again, other = (change(jax.random.key(seed), images) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
