"""Minimum class confusion (Jin et al., 2020)."""

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
  strength: float | optax.Schedule = 1.0,
  temperature: float = 2.5,
) -> Method:
  """Minimises source cross-entropy + strength x the target's class confusion.

  No domain is aligned to another (equation 7).

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: mu, a number or a schedule of the step.
    temperature: of the target's predictions; see `class_confusion`.
  """

  def loss(params, source, target, strength):
    del params, source
    return strength * class_confusion(target['logits'], temperature)

  return align(model, optimizer, loss, strength=strength)


def class_confusion(logits: jax.Array, temperature: float = 2.5) -> jax.Array:
  """Share of the pairs of predicted classes that are of two different ones.

  Certain examples weigh more; the confusion of each class with all is scaled to sum
  to 1 (equations 2 to 6). Logits are (N, K); 0 is no confusion.
  """
  logits = logits / temperature
  predictions = jax.nn.softmax(logits)
  weighted = predictions * losses.certainty_weights(logits)[:, None]
  confusion = weighted.T @ predictions
  confusion = confusion / jnp.sum(confusion, 1, keepdims=True)
  return 1 - jnp.trace(confusion) / confusion.shape[0]
