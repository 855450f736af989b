"""Entropy minimisation (Grandvalet and Bengio, 2005)."""

import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.1,
) -> Method:
  """Minimises source cross-entropy + strength x the mean entropy of the target.

  (Equation 6, with the target's images as the unlabelled ones.) With the stream
  'labelled' it is ENT, the baseline of Saito et al. (2019), of the same strength.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step. The paper chooses it by
      cross-validation; 0.1 is what AFN's authors add.
  """

  def loss(params, source, target, strength):
    del params, source
    return strength * jnp.mean(losses.entropy(target['logits']))

  return align(model, optimizer, loss, strength=strength)
