"""Tent: test-time entropy minimisation (Wang et al., 2021)."""

import re

import jax
import jax.numpy as jnp
import optax

from tljax import losses, optimizers
from tljax.adaptation.phases import in_turn
from tljax.errors import InputError
from tljax.method import (
  Method,
  Params,
  apply_train,
  group_step,
  new_state,
  path_name,
  predict_with,
)


def method(
  model, optimizer: optax.GradientTransformation, *, source_steps: int = 1000
) -> Method:
  """Trains on the source, then adapts the norms alone to the target, without it.

  First all descends the source's cross-entropy. Then the scales and biases of the
  norms, whatever their kind, descend the mean entropy of the target's predictions
  (sections 3.1 and 3.2), normalised by the batch's own statistics; the running ones,
  with which it is deployed, become the target's.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all in the first phase, the norms in the second.
    source_steps: of the first phase; 0 where the variables are trained already: then
      no step looks at the source.

  Raises:
    InputError: by `init`; the model has no norm with a scale and a bias.
  """

  optimizer = optimizers.apart(optimizer)

  def init(key, variables, batch):
    state = new_state(key, model, optimizer, batch['target']['image'], variables)
    if not any(jax.tree.leaves(norms(state.params))):
      raise InputError('tent: the model has no norm whose scale and bias could adapt')
    return state

  def learn(params, state, batch, rng):
    source = batch['source']
    outputs, model_state = apply_train(model, params, state, source['image'], rng)
    return losses.cross_entropy(outputs['logits'], source['label']), (model_state, {})

  def settle(params, state, batch, rng):
    params = jax.tree.map(_hold, norms(params), params)  # to spare their gradients
    images = batch['target']['image']
    outputs, model_state = apply_train(model, params, state, images, rng)
    return jnp.mean(losses.entropy(outputs['logits'])), (model_state, {})

  move_all = group_step(learn, optimizer, lambda part: True)
  move_norms = group_step(settle, optimizer, lambda part: True)

  def adapt(state, batch):
    after, metrics = move_norms(state, batch)
    # A momentum or a weight decay moves what has no gradient.
    params = jax.tree.map(
      lambda moves, new, old: new if moves else old,
      norms(state.params),
      after.params,
      state.params,
    )
    return after.replace(params=params), metrics

  step = in_turn(source_steps, move_all, adapt, optimizer)
  return Method(init, step, predict_with(model))


def norms(params: Params) -> Params:
  """Returns the tree of bool: whether a leaf is a norm's scale or bias."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: bool(re.search(r'norm\d*/(scale|bias)$', path_name(path))), params
  )


def _hold(moves, leaf):
  return leaf if moves else jax.lax.stop_gradient(leaf)
