"""Deep CORAL (Sun and Saenko, 2016)."""

import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.losses import Loss
from tljax.measures import shift
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the covariances of the two domains' features together.

  Minimises source cross-entropy + strength x `shift.coral` (equations 1 and 6).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step. The paper sets it so that
      the two terms are about equal at the end of training.
    task_loss: see `align`.
  """

  def loss(params, source, target, strength):
    del params
    return strength * shift.coral(source['features'], target['features'])

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
