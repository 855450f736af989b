"""Sharpness-aware minimisation (Foret et al., 2021)."""

import optax

from tljax.finetuning import plain
from tljax.losses import Loss
from tljax.method import Method, gradient_step
from tljax.sharpness import sharpness_aware


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  radius: float = 0.05,
  loss: Loss | None = None,
) -> Method:
  """Fine-tunes to where the loss is low all around: two gradients a step.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters.
    radius: rho, the norm of the perturbation; the paper's default.
    loss: see `plain.method`.
  """
  loss_fn = sharpness_aware(plain.loss_of(model, loss=loss), radius)
  step = gradient_step(loss_fn, optimizer)
  return plain.method(model, optimizer)._replace(step=step)
