"""Stepwise adaptive feature norm (Xu et al., 2019)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.05,
  delta: float = 1.0,
  entropy: float = 0.0,
) -> Method:
  """Lets the features of both domains grow, as larger ones transfer better.

  Minimises source cross-entropy + strength x `norm_growth` of either domain (equation
  8; the sum of the two domains' means, as the authors' code has it).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step.
    delta: by how much the norms are to grow in a step.
    entropy: weight of the target's mean entropy, SAFN+ENT; the authors' is 0.1.
  """

  def loss(params, source, target, strength):
    del params
    norms = [norm_growth(outputs['features'], delta) for outputs in (source, target)]
    term = strength * sum(norms)
    if entropy:
      term += entropy * jnp.mean(losses.entropy(target['logits']))
    return term

  return align(model, optimizer, loss, strength=strength)


def norm_growth(features: jax.Array, delta: float = 1.0) -> jax.Array:
  """Mean squared gap of each norm to itself, as a constant, + delta.

  Its value is delta^2 whatever the features (N, D); its gradient is what matters.
  """
  norms = optax.safe_norm(features, 0.0, axis=-1)  # ReLU leaves features that are 0
  return jnp.mean(jnp.square(norms - (jax.lax.stop_gradient(norms) + delta)))
