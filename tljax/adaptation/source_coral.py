"""CORAL between the source's domains (Sun and Saenko, 2016), for unseen targets."""

import optax

from tljax import losses
from tljax.adaptation.sources import generalize, mean_over_pairs
from tljax.losses import Loss
from tljax.measures import shift
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  domains: int = 1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the covariances of the source's domains together, each pair's.

  The target is not looked at. Minimises the mean risk + strength x the mean over pairs
  of domains of `shift.coral`; Gulrajani and Lopez-Paz (2021) use it so, and add the
  distance of the means.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: a number or a schedule of the step. DomainBed's 1 is 4 here, as its
      distance is not divided by 4.
    domains: of the source.
    task_loss: see `align`.
  """

  def penalty(outputs):
    return mean_over_pairs(shift.coral, outputs['features'])

  options = {'strength': strength, 'domains': domains, 'task_loss': task_loss}
  return generalize(model, optimizer, penalty, **options)
