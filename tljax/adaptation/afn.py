"""Adaptive feature norms, stepwise and hard (Xu et al., 2019)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.errors import InputError
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.05,
  delta: float = 1.0,
  entropy: float = 0.0,
  radius: float = 0.0,
) -> Method:
  """Lets the features of both domains grow, as larger ones transfer better.

  Minimises source cross-entropy + strength x `norm_growth` of either domain (equation
  8; the sum of the two domains' means, as the authors' code has it), or, with a radius,
  `norm_gap` (HAFN, equation 5).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step.
    delta: by how much the norms are to grow in a step.
    entropy: weight of the target's mean entropy, SAFN+ENT; the authors' is 0.1.
    radius: R of the hard form, which either domain's mean norm is to reach; the
      authors' is 25. At 0 norms grow.
  """
  if radius < 0:
    raise InputError(f'radius {radius} is no norm; choose one above 0, or 0 to grow')

  def loss(params, source, target, strength):
    del params
    features = source['features'], target['features']
    pull = norm_gap if radius else norm_growth
    term = strength * sum(pull(x, radius or delta) for x in features)
    if entropy:
      term += entropy * jnp.mean(losses.entropy(target['logits']))
    return term

  return align(model, optimizer, loss, strength=strength)


def norm_growth(features: jax.Array, delta: float = 1.0) -> jax.Array:
  """Mean squared gap of each norm to itself, as a constant, + delta.

  Its value is delta^2 whatever the features (N, D); its gradient is what matters.
  """
  norms = _norms(features)
  return jnp.mean(jnp.square(norms - (jax.lax.stop_gradient(norms) + delta)))


def norm_gap(features: jax.Array, radius: float) -> jax.Array:
  """Squared gap of the mean norm of features (N, D) to the radius."""
  return jnp.square(jnp.mean(_norms(features)) - radius)


def _norms(features):
  return optax.safe_norm(features, 0.0, axis=-1)  # ReLU leaves features that are 0
