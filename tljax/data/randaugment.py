"""RandAugment (Cubuk et al., 2020) and FixMatch's two views (Sohn et al., 2020)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tljax.data import augment, color
from tljax.data.augment import Augment, each


def warp(image: jax.Array, matrix: jax.Array, offset: jax.Array) -> jax.Array:
  """Takes each pixel from where an affine map sends it: the nearest, or black outside.

  Args:
    image: (H, W, C) float.
    matrix: (2, 2) of (x, y), in pixels from the centre of the image.
    offset: (2,) added to the product.
  """
  height, width, _ = image.shape
  middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
  x = (jnp.arange(width, dtype=jnp.float32) - middle_x)[None]
  y = (jnp.arange(height, dtype=jnp.float32) - middle_y)[:, None]
  column, row = (
    jnp.round(matrix[i, 0] * x + matrix[i, 1] * y + offset[i] + middle)
    for i, middle in enumerate((middle_x, middle_y))
  )
  inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
  row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
  return jnp.where(inside[..., None], image[row, column], 0.0)


def rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
  """Turns counter-clockwise about the centre by an angle in radians."""
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  matrix = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
  return warp(image, matrix, jnp.zeros(2))


def shear(image: jax.Array, slope: jax.Array, axis: int) -> jax.Array:
  """Shifts rows (axis 0, x) or columns (axis 1, y) by the slope times their index.

  The top or the left border stays where it is.
  """
  matrix = jnp.eye(2).at[axis, 1 - axis].set(slope)
  return warp(image, matrix, jnp.zeros(2).at[axis].set(slope * image.shape[axis] / 2))


def translate(image: jax.Array, distance: jax.Array, axis: int) -> jax.Array:
  """Shifts by whole pixels to the right (axis 0, x) or down (axis 1, y)."""
  return warp(image, jnp.eye(2), jnp.zeros(2).at[axis].set(-jnp.trunc(distance)))


# By name, with its strength in [-1, 1], the share of torchvision's largest magnitude.
# Where a sign makes no sense it is dropped.
OPERATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'identity': lambda image, s: image,
  'shear_x': lambda image, s: shear(image, 0.3 * s, 0),
  'shear_y': lambda image, s: shear(image, 0.3 * s, 1),
  'translate_x': lambda image, s: translate(image, 150 / 331 * image.shape[1] * s, 0),
  'translate_y': lambda image, s: translate(image, 150 / 331 * image.shape[0] * s, 1),
  'rotate': lambda image, s: rotate(image, jnp.pi / 6 * s),
  'brightness': lambda image, s: color.brightness(image, 1.0 + 0.9 * s),
  'color': lambda image, s: color.saturation(image, 1.0 + 0.9 * s),
  'contrast': lambda image, s: color.contrast(image, 1.0 + 0.9 * s),
  'sharpness': lambda image, s: color.sharpness(image, 1.0 + 0.9 * s),
  'posterize': lambda image, s: color.posterize(
    image, 8.0 - jnp.round(4.0 * jnp.abs(s))
  ),
  'solarize': lambda image, s: color.solarize(image, 1.0 - jnp.abs(s)),
  'autocontrast': lambda image, s: color.autocontrast(image),
  'equalize': lambda image, s: color.equalize(image),
}


def rand_augment(
  num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31
) -> Augment:
  """Applies operations drawn from `OPERATIONS`, each with a random sign.

  Args:
    num_ops: operations an image goes through; one may come twice.
    magnitude: strength of them all, from 0 to num_magnitude_bins - 1.
    num_magnitude_bins: number of strengths.
  """
  strength = magnitude / (num_magnitude_bins - 1)
  operations = list(OPERATIONS.values())

  def one(image, chosen, strengths):
    for i in range(num_ops):
      image = jax.lax.switch(chosen[i], operations, image, strengths[i])
    return image

  def apply(key, images):
    op_key, sign_key = jax.random.split(key)
    shape = (len(images), num_ops)
    chosen = jax.random.randint(op_key, shape, 0, len(operations))
    strengths = strength * jax.random.rademacher(sign_key, shape, jnp.float32)
    return each(one, images, chosen, strengths)

  return apply


weak = augment.compose(augment.flip, augment.shift())


def fixmatch() -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
  """Two views: flipped and shifted, and then also RandAugment and Cutout."""
  strong = augment.compose(weak, rand_augment(), augment.cutout())
  return augment.weak_strong(weak, strong)
