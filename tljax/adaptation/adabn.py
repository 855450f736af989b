"""Adaptive batch normalisation (Li et al., 2017)."""

import jax
import optax

from tljax import losses
from tljax.errors import InputError
from tljax.method import Method, apply_train, gradient_step, new_state, predict_with


def method(model, optimizer: optax.GradientTransformation) -> Method:
  """Trains on the source alone, and is deployed with the target's batch statistics.

  After each step the target's images go through the network as well, without a
  gradient, and they alone move the running statistics (algorithm 1, with running
  averages for those of the whole target at the end).

  Args:
    model: outputs by endpoint, among them 'logits'; with batch norms.
    optimizer: moves the model's parameters.

  Raises:
    InputError: by `init`; the model has no batch statistics.
  """

  def init(key, variables, batch):
    state = new_state(key, model, optimizer, batch['source']['image'], variables)
    if not state.model_state:
      raise InputError('adabn: the model has no batch statistics that could adapt')
    return state

  def loss_fn(params, state, batch, rng):
    source = batch['source']
    outputs, model_state = apply_train(model, params, state, source['image'], rng)
    logits, labels = outputs['logits'], source['label']
    metrics = {'accuracy': losses.accuracy(logits, labels)}
    return losses.cross_entropy(logits, labels), (model_state, metrics)

  learn = gradient_step(loss_fn, optimizer)

  def step(state, batch):
    after, metrics = learn(state, batch)
    rng = jax.random.fold_in(state.rng, state.step)
    # Of the state before: the source's statistics are in no prediction.
    images = batch['target']['image']
    _, model_state = apply_train(model, after.params, state, images, rng)
    return after.replace(model_state=model_state), metrics

  return Method(init, step, predict_with(model))
