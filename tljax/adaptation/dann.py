"""Domain-adversarial training of neural networks (Ganin et al., 2016)."""

import optax

from tljax import losses
from tljax.adaptation.adversarial import (
  Discriminator,
  discriminate,
  init_discriminator,
  ramp,
  reverse_gradient,
)
from tljax.adaptation.alignment import align
from tljax.losses import Loss
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(10_000),
  discriminator=Discriminator(),
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Trains features that a domain discriminator cannot tell apart.

  The model minimises source cross-entropy - strength x the discriminator's loss,
  the discriminator minimises its loss; gradient reversal makes both one descent
  (equations 9 to 15).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves model and discriminator alike.
    strength: lambda, a number or a schedule of the step. Set `ramp(total_steps)` for
      the paper's; the default, 2/(1+exp(-t/1000))-1, is the published libraries'.
    discriminator: (N, D) features to (N,) logits.
    task_loss: see `align`.
  """

  def init_params(key, outputs):
    return init_discriminator(discriminator, key, outputs['features'])

  def loss(params, source, target, strength):
    features = [reverse_gradient(x['features'], strength) for x in (source, target)]
    scores = discriminate(discriminator, params['discriminator'], *features)
    return losses.domain_cross_entropy(*scores)

  return align(
    model,
    optimizer,
    loss,
    strength=strength,
    init_params=init_params,
    task_loss=task_loss,
  )
