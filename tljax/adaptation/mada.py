"""Multi-adversarial domain adaptation (Pei et al., 2018)."""

import jax
import jax.numpy as jnp
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
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(10_000),
  discriminator=Discriminator(width=256),
) -> Method:
  """Trains as DANN does, with a discriminator of its own for each class.

  That of class k sees the features times the predicted probability of k, and the
  losses of all are summed. The predictions are constants to the gradient, as CDAN's
  are.

  Args:
    model: outputs by endpoint, among them 'features' (N, D) and 'logits' (N, K).
    optimizer: moves model and discriminators alike.
    strength: lambda, a number or a schedule of the step; see `dann`.
    discriminator: (N, D) features to (N,) logits, K times; narrower than DANN's by
      default, as K of that are many parameters.
  """

  def init_params(key, outputs):
    keys = jax.random.split(key, outputs['logits'].shape[-1])
    drawn = jax.vmap(
      lambda k: init_discriminator(discriminator, k, outputs['features'])
    )(keys)
    return {'discriminators': drawn['discriminator']}

  def loss(params, source, target, strength):
    both = source, target
    features = [reverse_gradient(x['features'], strength) for x in both]
    shares = [jax.lax.stop_gradient(jax.nn.softmax(x['logits'])).T for x in both]

    def of_class(mine, *weights):
      seen = [w[:, None] * x for w, x in zip(weights, features, strict=True)]
      return losses.domain_cross_entropy(*discriminate(discriminator, mine, *seen))

    return jnp.sum(jax.vmap(of_class)(params['discriminators'], *shares))

  return align(model, optimizer, loss, strength=strength, init_params=init_params)
