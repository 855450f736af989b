"""Invariant risk minimisation, IRMv1 (Arjovsky et al., 2019)."""

import math

import jax
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
  strength: float | optax.Schedule = ramp(5000, peak=100.0),
  domains: int = 1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Seeks features on which one head is the best of every source domain at once.

  The target is not looked at. Minimises the mean over domains of their risk R +
  strength x (dR/dw)^2, where w = 1 is a factor of the logits (equation IRMv1). The
  square is the product of the slopes on either half of the domain's examples, which a
  batch does not bias (appendix D); with one example of a domain there is no other half.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step. The peak is DomainBed's, which
      jumps there from 1 at step 500 of 5000.
    domains: of the source.
    task_loss: see `align`.
  """

  def risk(factor, logits, labels):
    return task_loss(factor * logits, labels)

  def penalty(outputs):
    logits, labels = outputs['logits'], outputs['label']
    one, slopes = jnp.ones((), logits.dtype), jax.vmap(jax.grad(risk), (None, 0, 0))
    halves = (slopes(one, logits[:, i::2], labels[:, i::2]) for i in range(2))
    return jnp.mean(math.prod(halves))

  options = {'strength': strength, 'domains': domains, 'task_loss': task_loss}
  return generalize(model, optimizer, penalty, **options)
