"""Partial adversarial domain adaptation (Cao et al., 2018)."""

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
from tljax.adaptation.alignment import both_domains
from tljax.method import Method, gradient_step, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(10_000),
  decay: float = 0.99,
  discriminator=Discriminator(),
) -> Method:
  """Trains as DANN does, and source classes weigh what the target seems to have.

  The weights are the mean prediction on the target over its largest entry (section
  3.2). They weigh the source's examples in the cross-entropy, a weighted mean as in the
  authors' code, and in the discriminator's loss. Where the paper predicts the whole
  target anew every so often, here `memory` is a running mean over the batches; all
  classes are alike at first.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits' (N, K).
    optimizer: moves model and discriminator alike.
    strength: lambda, a number or a schedule of the step; see `dann`.
    decay: of the running mean a step; 0 takes the last batch's.
    discriminator: (N, D) features to (N,) logits.
  """
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init_params(key, outputs):
    return init_discriminator(discriminator, key, outputs['features'])

  def init(key, variables, batch):
    images = batch['source']['image']
    state = new_state(key, model, optimizer, images, variables, init_params=init_params)
    outputs = jax.eval_shape(
      lambda v: model.apply(v, images, train=False), state.variables
    )
    count = outputs['logits'].shape[-1]
    return state.replace(memory=jnp.full(count, 1 / count, jnp.float32))

  def loss_fn(params, state, batch, rng):
    source, target, model_state = both_domains(model, params, state, batch, rng)
    weight = jnp.asarray(schedule(state.step), jnp.float32)

    weights = state.memory / jnp.max(state.memory)
    logits, labels = source['logits'], batch['source']['label']
    task = losses.cross_entropy(logits, labels, class_weights=weights)
    each = losses.probabilities(labels, len(weights)) @ weights
    features = [reverse_gradient(x['features'], weight) for x in (source, target)]
    scores = discriminate(discriminator, params['discriminator'], *features)
    gap = losses.domain_cross_entropy(*scores, each)
    metrics = {'task_loss': task, 'alignment_loss': gap, 'strength': weight}
    metrics['shares'] = jnp.mean(jax.nn.softmax(target['logits']), 0)
    return task + gap, (model_state, metrics)

  learn = gradient_step(loss_fn, optimizer)

  def step(state, batch):
    state, metrics = learn(state, batch)
    shares = metrics.pop('shares')
    memory = decay * state.memory + (1 - decay) * shares
    return state.replace(memory=memory), metrics

  return Method(init, step, predict_with(model))
