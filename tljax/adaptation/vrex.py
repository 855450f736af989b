"""Variance risk extrapolation, V-REx (Krueger et al., 2021)."""

import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.adversarial import ramp
from tljax.adaptation.sources import generalize
from tljax.losses import Loss
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(5000, peak=10.0),
  domains: int = 1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Makes the source's domains equally hard; the target is not looked at.

  Minimises the mean risk + strength x the variance of the domains' risks (equation 8).

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: beta, a number or a schedule of the step. The peak is DomainBed's, which
      jumps there from 1 at step 500 of 5000.
    domains: of the source.
    task_loss: see `align`.
  """

  def penalty(outputs):
    return jnp.var(outputs['risk'])

  options = {'strength': strength, 'domains': domains, 'task_loss': task_loss}
  return generalize(model, optimizer, penalty, **options)
