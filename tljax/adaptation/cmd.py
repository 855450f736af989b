"""Central moment discrepancy (Zellinger et al., 2017)."""

import jax.numpy as jnp
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
  moments: int = 5,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the means and central moments of the domains' features together.

  Minimises source cross-entropy + strength x `shift.cmd`. The discrepancy is of
  features in an interval; the paper's are of a layer with tanh, so tanh is taken of
  them here, and the interval is 2 wide.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step; the paper's is 1.
    moments: the highest order; the paper's is 5.
    task_loss: see `align`.
  """

  def loss(params, source, target, strength):
    del params
    both = (jnp.tanh(outputs['features']) for outputs in (source, target))
    return strength * shift.cmd(*both, moments=moments, span=2.0)

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
