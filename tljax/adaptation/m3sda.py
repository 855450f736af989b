"""Moment matching for multi-source domain adaptation, M3SDA (Peng et al., 2019)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.adaptation.sources import by_domain, mean_over_pairs
from tljax.losses import Loss
from tljax.measures import shift
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.5,
  moments: int = 2,
  domains: int = 1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Brings the moments of all domains together: the sources' and the target's.

  Minimises source cross-entropy + strength x (the mean over the source's domains of
  `shift.moment_distance` to the target + its mean over their pairs) (equation 1). One
  head serves all domains; the paper's M3SDA-beta has a pair for each.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step. The paper states none. The
      published library Dassl has 0.5 too, but of variances, and of a mean over the
      moments and over all pairs, the target's among them: a sixth of this.
    moments: the highest order.
    domains: of the source.
    task_loss: see `align`.
  """

  def distance(one, other):
    return shift.moment_distance(one, other, moments=moments)

  def loss(params, source, target, strength):
    del params
    each = by_domain(source['features'], source.get('domain'), domains)
    to_target = jnp.mean(jax.vmap(distance, (0, None))(each, target['features']))
    return strength * (to_target + mean_over_pairs(distance, each))

  return align(model, optimizer, loss, strength=strength, task_loss=task_loss)
