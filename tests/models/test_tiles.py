"""Images, and strips of them, some at a time are as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models import tiles


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: request.param)
  return request.param


@pytest.fixture(params=[jax.jit, lambda function: function], ids=['traced', 'eager'])
def traced(request):
  return request.param


@pytest.mark.parametrize(('most', 'size'), [(0, 1), (1, 1), (4, 3), (5, 3), (6, 6)])
def test_images_are_mapped_in_equal_parts(devices, traced, most, size):
  x, seen = jnp.arange(12, dtype=jnp.int32).reshape(6, 2), []

  def function(part):
    seen.append(len(part))
    return part[:, :1].astype(jnp.float32)

  mapped = traced(lambda x: tiles.over_images(function, x, most))(x)
  np.testing.assert_array_equal(mapped, x[:, :1])
  assert set(seen) == {size if devices == 1 else 6}


def test_its_gradient_is_that_of_all_at_once(devices):
  x = jnp.linspace(0.5, 2, 6)[:, None]
  grad = jax.grad(lambda x: jnp.sum(tiles.over_images(jnp.log, x, 2)))(x)
  np.testing.assert_allclose(grad, 1 / x, rtol=1e-6)


@pytest.mark.parametrize('tile', [(2, 6), (4, 6), (1, 3), (1, 1)])
def test_tiles_meet_the_pixels_of_their_windows(traced, tile):
  """Strips of images, windows three high and two apart: all sums of products."""
  rng = np.random.default_rng(0)
  x, grad = (jnp.asarray(rng.normal(size=s)) for s in ((4, 13, 5, 2), (4, 6, 5, 3)))

  def function(pixels, grad):
    assert pixels.shape[1] == 2 * grad.shape[1] + 1
    return {
      i: jnp.einsum('nhwc,nhwk->ck', pixels[:, i::2][:, : grad.shape[1]], grad)
      for i in range(3)
    }

  given = traced(lambda x: tiles.sum_over_tiles(function, x, grad, tile, (3, 2)))(x)
  for i, wanted in function(x, grad).items():
    np.testing.assert_allclose(given[i], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_not_traced_compiles_once(monkeypatch, caplog):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  x = jnp.ones((6, 5, 4, 2))

  def run():
    tiles.over_images(lambda part: part * 2, x, 2)
    tiles.sum_over_tiles(lambda x, grad: jnp.sum(x * grad), x, x, (2, 5), (1, 1))

  with jax.log_compiles():
    run()
    assert 'Compiling' in caplog.text
    caplog.clear()
    run()
  assert 'Compiling' not in caplog.text
