"""Augmentations: pure functions `(key, images) -> images`, batched, on the device."""

import jax
import jax.numpy as jnp


def invert_contrast(key: jax.Array, images: jax.Array) -> jax.Array:
  """Turns images (N, H, W, C) in [0, 1] into negatives, each half the time."""
  invert = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
  return jnp.where(invert, 1.0 - images, images)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors images (N, H, W, C) left to right, each half the time."""
  mirror = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
  return jnp.where(mirror, images[:, :, ::-1], images)
