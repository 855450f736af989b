"""Adversarial discriminative domain adaptation (Tzeng et al., 2017)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses, optimizers
from tljax.adaptation.adversarial import (
  Discriminator,
  discriminate,
  init_discriminator,
)
from tljax.adaptation.phases import in_turn
from tljax.method import Method, apply_train, group_step, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.1,
  source_steps: int = 1000,
  discriminator=Discriminator(),
) -> Method:
  """Trains on the source, then moves the target's features to where the source's lie.

  First all but the discriminator descend the source's cross-entropy (equation 9's
  first line). Then the network so trained is kept as the source's, and in each step
  the discriminator learns to tell its source features from the target's (second line),
  and all but the head learns to have the target's taken for source's (third line).
  The head stays, and serves the target.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits', those of its part
      'head'.
    optimizer: moves the model and the discriminator, `apart`.
    strength: share of the optimiser's step that the target's network takes, a number or
      a schedule of the step. Nothing but the discriminator holds it, and at the rate
      that trained it it leaves its classes behind.
    source_steps: of the first phase; 0 where the variables are trained already.
    discriminator: (N, D) features to (N,) logits.
  """
  optimizer = optimizers.apart(optimizer, ('discriminator',))
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init_params(key, outputs):
    return init_discriminator(discriminator, key, outputs['features'])

  def init(key, variables, batch):
    images = batch['source']['image']
    return _keep_source(
      new_state(key, model, optimizer, images, variables, init_params=init_params)
    )

  def score(params, batch, target):
    # Both together, also where only the target's count: a norm may be of the batch.
    features = batch['source_features'], target['features']
    return discriminate(discriminator, params['discriminator'], *features)

  def learn(params, state, batch, rng):
    source = batch['source']
    outputs, model_state = apply_train(model, params, state, source['image'], rng)
    return losses.cross_entropy(outputs['logits'], source['label']), (model_state, {})

  def separate(params, state, batch, rng):
    target, _ = apply_train(model, params, state, batch['target']['image'], rng)
    loss = losses.domain_cross_entropy(*score(params, batch, target))
    return loss, (state.model_state, {})

  def confuse(params, state, batch, rng):
    images = batch['target']['image']
    target, model_state = apply_train(model, params, state, images, rng)
    _, scores = score(params, batch, target)
    loss = optax.sigmoid_binary_cross_entropy(scores, jnp.ones_like(scores))
    return jnp.mean(loss), (model_state, {})

  move_model = group_step(learn, optimizer, lambda part: part != 'discriminator')
  move_critic = group_step(separate, optimizer, lambda part: part == 'discriminator')
  move_features = group_step(
    confuse, optimizer, lambda part: part not in ('discriminator', 'head')
  )

  def pretrain(state, batch):
    state, metrics = move_model(state, batch)
    nothing = jnp.zeros_like(metrics['loss'])
    return _keep_source(state), {**metrics, 'alignment_loss': nothing}

  def adapt(state, batch):
    source = model.apply(state.memory, batch['source']['image'], train=False)
    batch = {**batch, 'source_features': source['features']}
    state, metrics = move_critic(state, batch)
    after, moved = move_features(state, batch)
    # The step and not its loss: Adam would make up for a factor of that.
    share = jnp.asarray(schedule(state.step), jnp.float32)
    params = jax.tree.map(
      lambda new, old: old + share * (new - old), after.params, state.params
    )
    metrics = {**metrics, 'alignment_loss': moved['loss']}
    return after.replace(params=params), metrics

  step = in_turn(source_steps, pretrain, adapt, optimizer)
  return Method(init, step, predict_with(model))


def _keep_source(state):
  """Remembers the model as the source's; copies, as the state is donated."""
  params = {k: v for k, v in state.params.items() if k != 'discriminator'}
  source = {**state.variables, 'params': params}
  return state.replace(memory=jax.tree.map(lambda x: jnp.array(x, copy=True), source))
