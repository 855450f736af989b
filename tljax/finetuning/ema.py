"""Exponential moving average of the weights, for any method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tljax.method import Method, TrainState, Variables, follow


class Memory(NamedTuple):
  """What the averaged method remembers.

  Attributes:
    inner: the method's own memory.
    average: of the variables: parameters and batch statistics.
  """

  inner: Any
  average: Variables


def averaged(method: Method, decay: float = 0.999) -> Method:
  """Returns the method with the average of its weights as what is deployed.

  After step t the average keeps min(decay, (1 + t) / (10 + t)) of itself and takes
  the rest from the weights (Polyak & Juditsky, 1992; the ramp is TensorFlow's), so
  that a short training is not an average of its start.

  Args:
    method: any; it trains as it would alone.
    decay: of the average a step.
  """

  def init(key, variables, batch):
    state = method.init(key, variables, batch)
    average = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state.variables)
    return state.replace(memory=Memory(state.memory, average))

  def step(state, batch):
    after, metrics = method.step(state.replace(memory=state.memory.inner), batch)
    t = after.step.astype(jnp.float32)
    share = 1.0 - jnp.minimum(decay, (1.0 + t) / (10.0 + t))
    average = follow(state.memory.average, after.variables, share)
    return after.replace(memory=Memory(after.memory, average)), metrics

  def predict(state, images):
    params, model_state = _split(state.memory.average)
    state = state.replace(
      params=params, model_state=model_state, memory=state.memory.inner
    )
    return method.predict(state, images)

  return Method(init, step, predict)


def average(state: TrainState) -> Variables:
  """Returns the averaged variables of a state, for another method's `init`."""
  return state.memory.average


def _split(variables):
  model_state = dict(variables)
  return model_state.pop('params'), model_state
