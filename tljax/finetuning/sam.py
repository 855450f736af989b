"""Sharpness-aware minimisation (Foret et al., 2021)."""

import optax

from tljax.finetuning import plain
from tljax.method import Method, gradient_step
from tljax.sharpness import sharpness_aware


def method(
  model, optimizer: optax.GradientTransformation, *, radius: float = 0.05
) -> Method:
  """Fine-tunes to where the loss is low all around: two gradients a step.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters.
    radius: rho, the norm of the perturbation; the paper's default.
  """
  loss_fn = sharpness_aware(plain.loss_of(model), radius)
  return plain.method(model, optimizer)._replace(step=gradient_step(loss_fn, optimizer))
