import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data import vision
from tljax.data import color

# Ours, theirs, amounts.
ADJUSTED = [
  (color.brightness, 'adjust_brightness', (0.0, 0.3, 1.0, 1.9)),
  (color.contrast, 'adjust_contrast', (0.0, 0.3, 1.0, 1.9)),
  (color.saturation, 'adjust_saturation', (0.0, 0.3, 1.0, 1.9)),
  (color.hue, 'adjust_hue', (-0.5, -0.21, 0.0, 0.1, 0.5)),
  (color.sharpness, 'adjust_sharpness', (0.0, 0.3, 1.0, 1.9)),
  (color.posterize, 'posterize', (1, 4, 7, 8)),
  (color.solarize, 'solarize', (0.0, 0.7, 1.0)),
  (color.autocontrast, 'autocontrast', ()),
  (color.equalize, 'equalize', ()),
]
RNG = np.random.default_rng(0)


def images(channels):
  """Noise, dark noise of few levels, and a constant: (H, W, C)."""
  shape = (24, 31, channels)
  few = (RNG.integers(20, 60, shape) / 255).astype(np.float32)
  return RNG.random(shape, np.float32), few, np.full(shape, 0.3, np.float32)


@pytest.mark.torch
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(('ours', 'theirs', 'amounts'), ADJUSTED)
def test_operations_are_torchvisions(ours, theirs, amounts, channels):
  theirs = getattr(vision.transforms().functional, theirs)
  for image in images(channels):
    for amount in amounts or [None]:
      args = () if amount is None else (amount,)
      expected = vision.from_torch(theirs(vision.to_torch(image), *args))
      result = jax.jit(ours)(image, *map(jnp.float32, args))
      np.testing.assert_allclose(result, expected, atol=2e-6, err_msg=str(amount))


def test_luminance_of_the_corners_of_the_cube():
  primaries = np.eye(3, dtype=np.float32)[None]
  expected = np.float32([0.2989, 0.587, 0.114])[None, :, None]
  np.testing.assert_allclose(color.luminance(primaries), expected, rtol=1e-6)
  grey = np.full((2, 2, 1), 0.4, np.float32)
  np.testing.assert_array_equal(color.luminance(grey), grey)


@pytest.mark.parametrize('factor', [0.0, 0.5, 1.5])
def test_brightness_contrast_and_saturation_against_formulas(factor):
  image = images(3)[0]
  grey = image @ np.float32([0.2989, 0.587, 0.114])
  for operation, other in [
    (color.brightness, 0),
    (color.contrast, grey.mean()),
    (color.saturation, grey[..., None]),
  ]:
    expected = np.clip(factor * image + (1 - factor) * other, 0, 1)
    np.testing.assert_allclose(operation(image, factor), expected, atol=1e-6)


@pytest.mark.parametrize('turn', [-0.5, -0.2, 0.0, 0.3])
def test_hue_against_colorsys(turn):
  image = images(3)[0]
  image[0, :7] = [
    [x in s for x in 'rgb'] for s in ('', 'r', 'g', 'b', 'rg', 'gb', 'br')
  ]
  expected = np.zeros_like(image)
  for place in np.ndindex(image.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*map(float, image[place]))
    expected[place] = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
  np.testing.assert_allclose(color.hue(image, jnp.float32(turn)), expected, atol=2e-6)


def test_sharpness_of_a_point():
  image = np.zeros((5, 5, 1), np.float32)
  image[2, 2] = 1
  blurred = np.zeros((5, 5), np.float32)
  blurred[1:4, 1:4] = 1 / 13
  blurred[2, 2] = 5 / 13
  np.testing.assert_allclose(color.sharpness(image, 0.0)[..., 0], blurred, atol=1e-6)
  np.testing.assert_array_equal(color.sharpness(image, 1.0), image)
  for thin in (image[2:3], image[1:3], image[:, 2:3]):  # all border
    np.testing.assert_array_equal(color.sharpness(thin, 0.0), thin)


def test_posterize_and_solarize_of_a_ramp():
  ramp = (np.arange(256, dtype=np.float32) / 256).reshape(16, 16, 1)
  posterized = color.posterize(ramp, jnp.float32(2))
  np.testing.assert_array_equal(np.unique(posterized), np.arange(4) / 4)
  assert (np.asarray(posterized) <= ramp).all()
  expected = np.where(ramp >= 0.25, 1 - ramp, ramp)
  np.testing.assert_array_equal(color.solarize(ramp, 0.25), expected)


@pytest.mark.parametrize('levels', [(0, 256), (100, 140), (7, 8)])
def test_equalize_and_autocontrast_against_pillow(levels):
  pixels = np.sort(RNG.integers(*levels, (40, 50, 3)), 1).astype(np.uint8)
  image = jnp.float32(pixels) / 255.0
  expected = np.asarray(ImageOps.equalize(Image.fromarray(pixels)))
  result = np.asarray(color.equalize(image)) * 255
  np.testing.assert_allclose(result, expected, atol=1e-3)
  expected = np.asarray(ImageOps.autocontrast(Image.fromarray(pixels)))
  result = np.asarray(color.autocontrast(image)) * 255
  np.testing.assert_allclose(result, expected, atol=1.0)  # theirs rounds down


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation', 'hue'])
def test_jitter_draws_amounts_uniformly(name, monkeypatch):
  reveal = [lambda image, amount: image * 0 + amount] * 4
  monkeypatch.setattr(color, '_JITTERED', tuple(reveal))
  center, reach = (0.0, 0.1) if name == 'hue' else (1.0, 0.4)
  jitter = color.color_jitter(**{name: reach})
  amounts = jitter(jax.random.key(0), jnp.zeros((4000, 1, 1, 3)))[:, 0, 0, 0]
  wanted = np.linspace(center - reach, center + reach, 11)
  found = np.quantile(amounts, np.linspace(0, 1, 11))
  np.testing.assert_allclose(found, wanted, atol=0.05 * reach)


def test_factors_are_not_below_zero():
  white = jnp.ones((500, 1, 1, 3))
  jittered = color.color_jitter(brightness=3.0)(jax.random.key(0), white)
  assert jittered.min() >= 0 and jnp.mean(jittered == 1) == pytest.approx(
    3 / 4, abs=0.1
  )


def test_jitter_takes_every_order(monkeypatch):
  def digit(number, image, amount):
    del amount
    return 10 * image + number

  operations = tuple(functools.partial(digit, number) for number in range(4))
  monkeypatch.setattr(color, '_JITTERED', operations)
  jitter = color.color_jitter(0.1, 0.1, 0.1, 0.1)
  orders = jitter(jax.random.key(0), jnp.zeros((2400, 1, 1, 3)))[:, 0, 0, 0]
  values, counts = np.unique(np.asarray(orders), return_counts=True)
  assert len(values) == 24 and counts.min() > 60 and counts.max() < 140


def test_jitter_of_nothing_is_the_identity():
  image = images(3)[0][None]
  np.testing.assert_array_equal(color.color_jitter()(jax.random.key(0), image), image)
