"""Representation subspace distance, for regressions (Chen et al., 2021)."""

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
  strength: float | optax.Schedule = 0.001,
  mismatch: float = 0.1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the subspaces that the two domains' features span together.

  Minimises the task loss + strength x `subspaces.rsd`, which leaves the features'
  scale as it is (equation 7).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: a number or a schedule of the step; the default is that of the authors'
      code.
    mismatch: of the bases, within the distance; see `subspaces.rsd`. The authors' code
      has 0.1 too, of one of its tasks 0.01.
    task_loss: see `align`; the paper's is `losses.squared_error`.
  """

  def loss(params, source, target, strength):
    del params
    gap = subspaces.rsd(source['features'], target['features'], mismatch=mismatch)
    return strength * gap

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
