"""DARE-GRAM: inverse Gram matrices, for regressions (Nejjar et al., 2023)."""

import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.losses import Loss
from tljax.measures import subspaces
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  angle: float = 0.05,
  scale: float = 0.001,
  threshold: float = 0.9,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the two domains' inverse Gram matrices together, which least squares uses.

  Minimises the task loss + strength x `subspaces.dare_gram`.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: a number or a schedule of the step.
    angle: alpha; this and the next two as `subspaces.dare_gram` has them.
    scale: gamma.
    threshold: T.
    task_loss: see `align`; the paper's is `losses.squared_error`.
  """

  def loss(params, source, target, strength):
    del params
    options = {'angle': angle, 'scale': scale, 'threshold': threshold}
    features = source['features'], target['features']
    return strength * subspaces.dare_gram(*features, **options)

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
