"""Importance weighted adversarial nets (Zhang et al., 2018), for a partial target."""

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
  entropy: float = 0.1,
  discriminator=Discriminator(),
) -> Method:
  """Trains as DANN does, on the source's examples that look like the target's.

  A first discriminator, which the features do not oppose, finds them: the `importance`
  of a source example is how much it takes it for the target's. Those weigh in the loss
  of a second one, which the features oppose; and the model minimises `entropy` x the
  target's mean entropy. Where the paper trains a second network for the target, one
  serves both, as in the published library.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves model and discriminators alike.
    strength: lambda, a number or a schedule of the step; see `dann`.
    entropy: gamma; the published library's.
    discriminator: (N, D) features to (N,) logits, twice.
  """
  names = ('weigher', 'discriminator')

  def init_params(key, outputs):
    parts = {}
    for name, part_key in zip(names, jax.random.split(key), strict=True):
      drawn = init_discriminator(discriminator, part_key, outputs['features'])
      parts[name] = drawn['discriminator']
    return parts

  def loss(params, source, target, strength):
    features = source['features'], target['features']

    def scores(name, change):
      return discriminate(discriminator, params[name], *map(change, features))

    first = scores('weigher', jax.lax.stop_gradient)
    second = scores('discriminator', lambda x: reverse_gradient(x, strength))
    adversarial = losses.domain_cross_entropy(*second, importance(first[0]))
    uncertain = entropy * jnp.mean(losses.entropy(target['logits']))
    return losses.domain_cross_entropy(*first) + adversarial + uncertain

  return align(model, optimizer, loss, strength=strength, init_params=init_params)


def importance(logits: jax.Array) -> jax.Array:
  """Weights of source examples, of mean 1, from a discriminator's logits (N,).

  1 - its probability of the source (section 3.2); constants to the gradient.
  """
  # By logarithms, which do not underflow where all are sure to be of the source.
  doubts = jax.nn.log_sigmoid(-jax.lax.stop_gradient(logits))
  return len(logits) * jax.nn.softmax(doubts)
