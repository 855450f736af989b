"""Deep adaptation networks (Long et al., 2015)."""

from collections.abc import Sequence

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
  endpoints: Sequence[str] = ('features',),
  kernel: shift.Kernel = shift.adaptive_gaussians(),
  linear: bool = False,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the distributions of the two domains' features together, layer by layer.

  Minimises source cross-entropy + strength x the sum over the endpoints of `shift.mmd`
  (equation 4), with all kernels weighing the same.

  Args:
    model: outputs by endpoint, among them 'logits' and what `endpoints` names.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step.
    endpoints: of shape (N, D). The paper aligns every layer above the convolutions.
    kernel: see `shift.mmd`.
    linear: estimate in linear time, as the paper does; it is noisier, and both
      domains' batches must be of one size.
    task_loss: see `align`.
  """

  def loss(params, source, target, strength):
    del params
    return strength * sum(
      shift.mmd(source[name], target[name], kernel=kernel, linear=linear)
      for name in endpoints
    )

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
