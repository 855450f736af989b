"""Batch spectral penalisation with DANN (Chen et al., 2019)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.adversarial import (
  Discriminator,
  discriminate,
  init_discriminator,
  ramp,
  reverse_gradient,
)
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(10_000),
  penalty: float = 2e-4,
  discriminator=Discriminator(),
) -> Method:
  """Trains as DANN does, and keeps the leading direction of the features from ruling.

  To DANN's objective it adds penalty x `largest_singular_value` squared of either
  domain's features (equations 6 and 7).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves model and discriminator alike.
    strength: DANN's, a number or a schedule of the step.
    penalty: beta.
    discriminator: (N, D) features to (N,) logits.
  """

  def init_params(key, outputs):
    return init_discriminator(discriminator, key, outputs['features'])

  def loss(params, source, target, strength):
    features = source['features'], target['features']
    spectral = sum(jnp.square(largest_singular_value(x)) for x in features)
    features = [reverse_gradient(x, strength) for x in features]
    scores = discriminate(discriminator, params['discriminator'], *features)
    return losses.domain_cross_entropy(*scores) + penalty * spectral

  return align(model, optimizer, loss, strength=strength, init_params=init_params)


def largest_singular_value(features: jax.Array) -> jax.Array:
  """Of the features (N, D) of a batch, not centred."""
  return jnp.linalg.svd(features, compute_uv=False)[0]
