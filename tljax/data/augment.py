"""Augmentations: pure functions `(key, images) -> images`, batched, on the device.

Images are (N, H, W, C) float32 in [0, 1]; each is drawn for by itself. What has options
is made by a function of its name: `random_erasing(0.5)`. `mixup` and `cutmix` take
the labels too. Colour is in `color.py`, RandAugment and FixMatch in `randaugment.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tljax import losses
from tljax.errors import InputError

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (key, images) -> images
# (key, images, labels) -> (images, soft labels)
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def to_float(images: jax.Array) -> jax.Array:
  """Maps uint8 images to float32 in [0, 1]; features, already float, stay."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255.0
  return images


def each(function: Callable[..., jax.Array], *batch: jax.Array) -> jax.Array:
  """Maps a function of one example over the leading axis of arrays.

  On an accelerator it is `jax.vmap`. On a CPU one example follows the other, so that
  a `lax.switch` computes one branch and not all, what is at work stays in the cache,
  and XLA does not fuse, and so repeat, gathers into what comes after them.
  """

  def in_turn(*batch):
    return jax.lax.map(lambda example: function(*example), batch)

  return jax.lax.platform_dependent(*batch, cpu=in_turn, default=jax.vmap(function))


def compose(*augments: Augment) -> Augment:
  """Applies augmentations in turn, each with a key of its own."""

  def apply(key, images):
    keys = jax.random.split(key, len(augments))
    for augment, part in zip(augments, keys, strict=True):
      images = augment(part, images)
    return images

  return apply


def weak_strong(
  weak: Augment, strong: Augment
) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
  """Two views of every image, drawn apart: `{'image': weak, 'strong': strong}`."""

  def apply(key, images):
    weak_key, strong_key = jax.random.split(key)
    return {'image': weak(weak_key, images), 'strong': strong(strong_key, images)}

  return apply


def invert_contrast(key: jax.Array, images: jax.Array) -> jax.Array:
  """Turns images into negatives, each half the time."""
  invert = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
  return jnp.where(invert, 1.0 - images, images)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors images left to right, each half the time."""
  mirror = jax.random.bernoulli(key, shape=len(images))
  return each(lambda image, m: jnp.where(m, image[:, ::-1], image), images, mirror)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """Crops a random box, resizes it (Szegedy et al., 2015) and may mirror it.

  The boxes are drawn as torchvision draws them.

  Attributes:
    size: height and width of the result.
    scale: range of the box's share of the area.
    ratio: range of its width over its height.
    flip: share of the results that are mirrored left to right. Here it costs nothing;
      as an augmentation of its own it copies all images once more.
  """

  size: int
  scale: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: float = 0.0
  draws: ClassVar[tuple[int, int]] = (12, 2)  # uniform numbers that an image takes

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns crops (N, size, size, C) float32 of images float or uint8."""
    uniform = jax.random.uniform(key, (len(images), *self.draws), jnp.float32)
    boxes, mirror = self.draw(uniform, images.shape[1:3])
    size = (self.size, self.size)
    return each(lambda *example: resized_crop(*example, size), images, boxes, mirror)

  def draw(
    self, uniform: jax.Array, shape: tuple[int, int]
  ) -> tuple[jax.Array, jax.Array]:
    """Returns boxes (N, 4), see `crop_boxes`, and which (N,) are mirrored.

    Args:
      uniform: (N, *draws) in [0, 1), JAX's or NumPy's.
      shape: height and width of the images.
    """
    boxes = crop_boxes(uniform[:, :11], shape, self.scale, self.ratio)
    return boxes, uniform[:, 11, 0] < self.flip


def crop_boxes(
  uniform: jax.Array,
  shape: tuple[int, int],
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> jax.Array:
  """Returns boxes (N, 4) int32 for `RandomResizedCrop`: top, left, height, width.

  Where ten draws do not fit, it is the largest central box within `ratio`.

  Args:
    uniform: (N, 11, 2) in [0, 1), JAX's or NumPy's; the boxes are of the same.
    shape: height and width of the images.
    scale: range of the box's share of the area.
    ratio: range of its width over its height.
  """
  height, width = shape
  tallest = min(height, round(width / min(ratio)))
  widest = min(width, round(height * max(ratio)))
  central = ((height - tallest) // 2, (width - widest) // 2, tallest, widest)
  return _boxes(uniform, shape, scale, ratio, shape, central)


def _boxes(uniform, shape, scale, ratio, largest, fallback):
  """The first of ten draws that is no larger than `largest`, or else `fallback`."""
  xp = jnp if isinstance(uniform, jax.Array) else np
  (height, width), (low, high) = shape, (math.log(r) for r in ratio)
  area = height * width * (scale[0] + uniform[:, :10, 0] * (scale[1] - scale[0]))
  aspect = xp.exp(low + uniform[:, :10, 1] * (high - low))
  sides = xp.stack([xp.sqrt(area / aspect), xp.sqrt(area * aspect)], -1)
  sides = xp.round(sides).astype(xp.int32)
  fits = xp.all((sides > 0) & (sides <= xp.array([[largest]])), -1)
  sides = sides[xp.arange(len(sides)), xp.argmax(fits, 1)]
  room = xp.maximum(xp.array([shape]) - sides, 0)
  corners = (uniform[:, 10] * (room + 1).astype(xp.float32)).astype(xp.int32)
  boxes = xp.concatenate([corners, sides], 1)
  return xp.where(xp.any(fits, 1)[:, None], boxes, xp.array([fallback]))


def resized_crop(
  image: jax.Array, box: jax.Array, mirror: jax.Array, size: tuple[int, int]
) -> jax.Array:
  """Crops one image (H, W, C) to a box and resizes it, bilinear without antialiasing.

  Args:
    image: float, or uint8, of which a float32 in [0, 1] is made.
    box: (4,) int, top, left, height, width.
    mirror: whether the result is mirrored left to right.
    size: height and width of the result.
  """
  # Whole rows are cheap to gather, single pixels are not: turn, and take rows again.
  image = _resize_rows(image, box[0], box[2], jnp.arange(size[0]), size[0])
  columns = jnp.arange(size[1])
  columns = jnp.where(mirror, columns[::-1], columns)
  image = _resize_rows(image.transpose(1, 0, 2), box[1], box[3], columns, size[1])
  return image.transpose(1, 0, 2)


def _resize_rows(image, start, length, rows, count):
  """Rows `rows` of the `count` that the rows of the image are resized to."""
  last = length - 1
  zoom = length.astype(jnp.float32) / count
  position = (rows.astype(jnp.float32) + 0.5) * zoom - 0.5
  position = jnp.clip(position, 0.0, last.astype(jnp.float32))
  whole = jnp.floor(position)
  index = start + whole.astype(jnp.int32)
  below, above = (
    to_float(image[index]),
    to_float(image[jnp.minimum(index + 1, start + last)]),
  )
  return below + (above - below) * (position - whole)[:, None, None]


def shift(fraction: float = 0.125) -> Augment:
  """Moves images by up to a share of their sides; the borders are mirrored inwards."""

  def apply(key, images):
    keys = jax.random.split(key)
    rows, columns = (
      _shifted(k, len(images), side, fraction)
      for k, side in zip(keys, images.shape[1:3], strict=True)
    )
    return each(lambda image, r, c: image[r][:, c], images, rows, columns)

  return apply


def _shifted(key, count, side, fraction):
  """Indices (N, side) of the pixels that come to stand along a side."""
  limit = int(fraction * side)
  offset = jax.random.randint(key, (count, 1), -limit, limit + 1)
  index = jnp.abs(jnp.arange(side)[None] + offset)
  return side - 1 - jnp.abs(side - 1 - index)


def random_erasing(
  prob: float = 0.5,
  scale: tuple[float, float] = (0.02, 0.33),
  ratio: tuple[float, float] = (0.3, 3.3),
  value: float | Sequence[float] = 0.0,
) -> Augment:
  """Paints over a random box (Zhong et al., 2020).

  Args:
    prob: share of images that get one.
    scale: range of the box's share of the area.
    ratio: range of its height over its width.
    value: the paint, one number or one per channel.
  """

  def apply(key, images):
    choice_key, box_key = jax.random.split(key)
    count, height, width, _ = images.shape
    uniform = jax.random.uniform(box_key, (count, 11, 2), jnp.float32)
    inverse = (1 / ratio[1], 1 / ratio[0])
    largest, nothing = (height - 1, width - 1), (0, 0, 0, 0)
    boxes = _boxes(uniform, (height, width), scale, inverse, largest, nothing)
    chosen = jax.random.bernoulli(choice_key, prob, (count, 1, 1, 1))
    return _paint(images, chosen & _inside(boxes, height, width), value)

  return apply


def cutout(size: float = 0.5, value: float | Sequence[float] = 0.5) -> Augment:
  """Paints over a square around a random pixel (DeVries and Taylor, 2017).

  Args:
    size: the square's share of the shorter side; what lies outside the image is lost.
    value: the paint, one number or one per channel.
  """

  def apply(key, images):
    count, height, width = images.shape[:3]
    half = int(size * min(height, width)) // 2
    centers = jax.random.randint(key, (count, 2), 0, jnp.array([[height, width]]))
    boxes = jnp.concatenate([centers - half, jnp.full_like(centers, 2 * half)], 1)
    return _paint(images, _inside(boxes, height, width), value)

  return apply


def _inside(boxes, height, width):
  """Mask (N, H, W, 1) of boxes (N, 4), which may overhang."""

  def span(start, length, side):
    index = jnp.arange(side)[None] - start[:, None]
    return (index >= 0) & (index < length[:, None])

  top, left, tall, wide = boxes.T
  rows, columns = span(top, tall, height), span(left, wide, width)
  return rows[:, :, None, None] & columns[:, None, :, None]


def _paint(images, mask, value):
  paint = jnp.broadcast_to(jnp.asarray(value, images.dtype), images.shape[-1:])
  return jnp.where(mask, paint[None, None, None], images)


def mixup(alpha: float, num_classes: int) -> Mix:
  """Blends every image and label with another's (Zhang et al., 2018).

  Labels are (N,) integers or (N, K) probabilities. The whole batch has one share,
  drawn from Beta(alpha, alpha), and one permutation.

  Raises:
    InputError: alpha is not above 0.
  """
  _check_alpha('mixup', alpha)

  def apply(key, images, labels):
    share_key, key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha)
    others = jax.random.permutation(key, len(images))
    mixed = share * images + (1.0 - share) * images[others]
    return mixed, _mix_labels(labels, others, share, num_classes)

  return apply


def cutmix(alpha: float, num_classes: int) -> Mix:
  """Pastes a box of another image over every image (Yun et al., 2019).

  Labels are (N,) integers or (N, K) probabilities. The whole batch has one box and one
  permutation. Box and image have the same shape; the box's share of the area is drawn
  from Beta(alpha, alpha), and what overhangs the border is lost. Labels are mixed by
  the area that is left.

  Raises:
    InputError: alpha is not above 0.
  """
  _check_alpha('cutmix', alpha)

  def apply(key, images, labels):
    share_key, place_key, key = jax.random.split(key, 3)
    sides = jnp.array(images.shape[1:3])
    side_share = jnp.sqrt(1.0 - jax.random.beta(share_key, alpha, alpha))
    half = (0.5 * side_share * sides.astype(jnp.float32)).astype(jnp.int32)
    corner = jax.random.randint(place_key, (2,), 0, sides) - half
    mask = _inside(jnp.concatenate([corner, 2 * half])[None], *images.shape[1:3])
    others = jax.random.permutation(key, len(images))
    share = 1.0 - jnp.mean(mask.astype(jnp.float32))
    mixed = jnp.where(mask, images[others], images)
    return mixed, _mix_labels(labels, others, share, num_classes)

  return apply


def _check_alpha(name, alpha):
  if not alpha > 0:
    raise InputError(f'{name} draws from Beta({alpha}, {alpha}); choose alpha above 0')


def _mix_labels(labels, others, share, num_classes):
  targets = losses.probabilities(labels, num_classes)
  return share * targets + (1.0 - share) * targets[others]


def mixup_or_cutmix(
  num_classes: int,
  prob: float = 0.5,
  mixup_alpha: float = 0.8,
  cutmix_alpha: float = 1.0,
) -> Mix:
  """CutMix for a share `prob` of the batches, Mixup for the others, as in timm."""
  branches = cutmix(cutmix_alpha, num_classes), mixup(mixup_alpha, num_classes)

  def apply(key, images, labels):
    choice_key, key = jax.random.split(key)
    choice = jax.random.bernoulli(choice_key, prob)
    return jax.lax.cond(choice, *branches, key, images, labels)

  return apply


# By name, with the usual settings: the number of classes gives a mix.
MIXES = {
  'mixup': functools.partial(mixup, 0.2),
  'cutmix': functools.partial(cutmix, 1.0),
  'both': mixup_or_cutmix,
}
