"""Conditional domain-adversarial networks (Long et al., 2018)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.adversarial import (
  Discriminator,
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
  entropy: bool = False,
  widest: int = 4096,
  random_width: int = 1024,
  discriminator=Discriminator(),
) -> Method:
  """Trains as DANN does, on features and predictions multiplied out.

  The discriminator sees `multilinear_map` (equation 6): the product of features and
  softmax predictions, or, where that is wider than `widest`, a random projection of
  it, drawn once and never trained.

  Args:
    model: outputs by endpoint, among them 'features' (N, D) and 'logits' (N, K).
    optimizer: moves model and discriminator alike.
    strength: lambda, a number or a schedule of the step; see `dann`.
    entropy: CDAN+E: examples weigh by how certain their predictions are (equation 9).
    widest: the largest D K that is multiplied out.
    random_width: of the projection otherwise; the authors' code has 1024.
    discriminator: (N, D K) or (N, random_width) to (N,) logits.
  """

  def init_params(key, outputs):
    keys = jax.random.split(key, 3)
    features, logits = outputs['features'], outputs['logits']
    dims, parts = [features.shape[-1], logits.shape[-1]], {}
    if dims[0] * dims[1] > widest:
      draw = [
        jax.random.normal(k, (d, random_width))
        for k, d in zip(keys, dims, strict=False)
      ]
      parts['random_map'] = {'features': draw[0], 'predictions': draw[1]}
    joint = jax.eval_shape(multilinear_map, features, logits, parts.get('random_map'))
    return parts | init_discriminator(discriminator, keys[2], joint)

  def loss(params, source, target, strength):
    features, logits = (
      jnp.concatenate([source[name], target[name]]) for name in ('features', 'logits')
    )
    weights = losses.certainty_weights(logits) if entropy else jnp.ones(len(logits))
    predictions = jax.lax.stop_gradient(jax.nn.softmax(logits))
    features = reverse_gradient(features, strength)
    joint = multilinear_map(features, predictions, params.get('random_map'))
    scores = discriminator.apply({'params': params['discriminator']}, joint)
    count = len(source['logits'])
    return losses.domain_cross_entropy(
      scores[:count], scores[count:], weights[:count], weights[count:]
    )

  return align(
    model, _spare_map(optimizer), loss, strength=strength, init_params=init_params
  )


def multilinear_map(
  features: jax.Array, predictions: jax.Array, random_map: dict | None = None
) -> jax.Array:
  """Products of features (N, D) and predictions (N, K): (N, K D), classes outermost.

  With a `random_map` of 'features' (D, W) and 'predictions' (K, W): the product of the
  two projections over sqrt(W), (N, W), which keeps inner products on average.
  """
  if random_map is None:
    products = predictions[:, :, None] * features[:, None, :]
    return products.reshape(len(products), -1)
  left = features @ random_map['features']
  return left * (predictions @ random_map['predictions']) / left.shape[-1] ** 0.5


def _spare_map(optimizer):
  """Keeps the optimiser, weight decay included, from the random map."""

  def labels(params):
    return {part: 'held' if part == 'random_map' else 'moved' for part in params}

  return optax.multi_transform(
    {'moved': optimizer, 'held': optax.set_to_zero()}, labels
  )
