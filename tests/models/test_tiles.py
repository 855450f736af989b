"""Images some at a time are mapped as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models import tiles


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: request.param)
  return request.param


@pytest.mark.parametrize(('most', 'size'), [(0, 1), (1, 1), (4, 3), (5, 3), (6, 6)])
def test_images_are_mapped_in_equal_parts(devices, most, size):
  x, seen = jnp.arange(12, dtype=jnp.int32).reshape(6, 2), []

  def function(part):
    seen.append(len(part))
    return part[:, :1].astype(jnp.float32)

  np.testing.assert_array_equal(tiles.over_images(function, x, most), x[:, :1])
  assert set(seen) == {size if devices == 1 else 6}


def test_its_gradient_is_that_of_all_at_once(devices):
  x = jnp.linspace(0.5, 2, 6)[:, None]
  grad = jax.grad(lambda x: jnp.sum(tiles.over_images(jnp.log, x, 2)))(x)
  np.testing.assert_allclose(grad, 1 / x, rtol=1e-6)
