"""Colour: torchvision's operations on one float image, and the jitter of a batch.

An operation takes an image (H, W, C) float32 in [0, 1], of 1 or 3 channels, and returns
one like it; `jax.vmap` takes it to a batch. It computes what torchvision computes of a
float tensor, which is not always what Pillow computes of bytes.
"""

import jax
import jax.numpy as jnp

from tljax.data.augment import Augment, each

_LUMINANCE = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision rounds


def luminance(image: jax.Array) -> jax.Array:
  """Returns it as one channel (H, W, 1)."""
  if image.shape[-1] == 1:
    return image
  parts = zip(_LUMINANCE, jnp.split(image, 3, -1), strict=True)
  return sum(weight * channel for weight, channel in parts)


def _blend(image, other, factor):
  return jnp.clip(image * factor + other * (1.0 - factor), 0.0, 1.0)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies by the factor."""
  return jnp.clip(image * factor, 0.0, 1.0)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Stretches by the factor away from the image's mean luminance."""
  # Over whole rows first: XLA is slow to reduce pixels that lie three apart.
  mean = jnp.mean(luminance(jnp.mean(image, 0, keepdims=True)))
  return _blend(image, mean, factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Stretches by the factor away from each pixel's luminance."""
  return image if image.shape[-1] == 1 else _blend(image, luminance(image), factor)


def hue(image: jax.Array, turn: jax.Array) -> jax.Array:
  """Turns the hue, of HSV, by a share of the full circle."""
  if image.shape[-1] == 1:
    return image
  red, green, blue = (image[..., i] for i in range(3))
  value = jnp.maximum(jnp.maximum(red, green), blue)
  chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
  unit = jnp.where(chroma == 0, 1.0, chroma)
  sixths = jnp.where(
    value == red,
    (green - blue) / unit,
    jnp.where(value == green, 2.0 + (blue - red) / unit, 4.0 + (red - green) / unit),
  )
  # Along the circle a channel is a trapezium; they stand a third of the circle apart.
  steps = sixths[..., None] + (6.0 * turn + jnp.array([5.0, 3.0, 1.0]))[None, None]
  steps -= 6.0 * jnp.floor(steps / 6.0)
  dip = jnp.clip(jnp.minimum(steps, 4.0 - steps), 0.0, 1.0)
  return value[..., None] - chroma[..., None] * dip


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Stretches by the factor away from a 3x3 blur, whose centre weighs 5 and rim 1.

  The outermost pixels stay.
  """
  height, width, _ = image.shape
  padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
  rows = padded[:-2] + padded[1:-1] + padded[2:]
  box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
  row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
  border = (row == 0) | (row == height - 1) | (column == 0) | (column == width - 1)
  return jnp.where(border, image, _blend(image, (box + 4.0 * image) / 13.0, factor))


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
  """Rounds down to one of 2 ** bits levels; bits is a float."""
  levels = jnp.exp2(bits)
  return jnp.clip(jnp.floor(image * levels), 0.0, levels - 1.0) / levels


def solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
  """Inverts what is at least the threshold."""
  return jnp.where(image >= threshold, 1.0 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
  """Stretches each channel to [0, 1]; a constant one stays."""
  low, high = jnp.min(image, (0, 1)), jnp.max(image, (0, 1))
  low, high = jnp.where(low == high, jnp.array([[0.0], [1.0]]), jnp.stack([low, high]))
  return jnp.clip((image - low[None, None]) / (high - low)[None, None], 0.0, 1.0)


def equalize(image: jax.Array) -> jax.Array:
  """Spreads each channel's histogram, of 256 levels, evenly, as Pillow does."""
  channels = image.shape[-1]
  levels = (image * (256.0 - 1e-3)).astype(jnp.int32)
  levels += 256 * jnp.arange(channels)[None, None]  # one table for all channels
  counts = jnp.zeros(channels * 256, jnp.int32).at[levels].add(1).reshape(-1, 256)
  total = jnp.cumsum(counts, 1)
  highest = jnp.argmax(total, 1)  # the last level that occurs
  step = (total[:, -1] - counts[jnp.arange(channels), highest]) // 255
  step = step[:, None]
  table = jnp.clip((total - counts + step // 2) // jnp.maximum(step, 1), 0, 255)
  table = jnp.where(step == 0, jnp.arange(256)[None], table)
  return table.reshape(-1)[levels].astype(jnp.float32) / 255.0


_JITTERED = (brightness, contrast, saturation, hue)


def color_jitter(
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
) -> Augment:
  """Changes brightness, contrast, saturation and hue, in random order.

  Args:
    brightness: its factors are uniform in [1 - brightness, 1 + brightness], not
      below 0; likewise contrast and saturation.
    hue: its turns are uniform in [-hue, hue], in full circles.
  """
  reaches = (brightness, contrast, saturation, hue)
  lows = (*(max(0.0, 1.0 - reach) for reach in reaches[:3]), -hue)
  highs = (*(1.0 + reach for reach in reaches[:3]), hue)
  used = [i for i, reach in enumerate(reaches) if reach]
  operations = [_JITTERED[i] for i in used]

  def one(image, order, amounts):
    for step in range(len(used)):
      i = order[step]
      image = jax.lax.switch(i, operations, image, amounts[i])
    return image

  def apply(key, images):
    order_key, key = jax.random.split(key)
    orders = jnp.broadcast_to(jnp.arange(len(used)), (len(images), len(used)))
    orders = jax.random.permutation(order_key, orders, axis=1, independent=True)
    low, high = (jnp.array([[ends[i] for i in used]]) for ends in (lows, highs))
    amounts = low + (high - low) * jax.random.uniform(key, orders.shape)
    return each(one, images, orders, amounts)

  return apply
