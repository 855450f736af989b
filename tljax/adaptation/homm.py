"""Higher-order moment matching (Chen et al., 2020)."""

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
  order: int = 3,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the moments of the two domains' features together, of one order.

  Minimises source cross-entropy + strength x `shift.homm`. The paper adds a loss that
  draws the target's features to its clusters, which is not here.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: a number or a schedule of the step.
    order: of the moments; the paper finds 3 and 4 best.
    task_loss: see `align`.
  """

  def loss(params, source, target, strength):
    del params
    distance = shift.homm(source['features'], target['features'], order=order)
    return strength * distance

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
