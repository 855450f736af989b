"""Batch nuclear-norm maximisation (Cui et al., 2020)."""

import jax
import jax.numpy as jnp
import optax

from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
) -> Method:
  """Makes the target's predictions both certain and diverse.

  Minimises source cross-entropy - strength x `nuclear_norm` of the target's
  predictions (equations 10 to 12).

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step.
  """

  def loss(params, source, target, strength):
    del params, source
    return -strength * nuclear_norm(target['logits'])

  return align(model, optimizer, loss, strength=strength)


def nuclear_norm(logits: jax.Array) -> jax.Array:
  """Sum of the singular values of the (N, K) softmax predictions, over N."""
  values = jnp.linalg.svd(jax.nn.softmax(logits), compute_uv=False)
  return jnp.sum(values) / logits.shape[0]
