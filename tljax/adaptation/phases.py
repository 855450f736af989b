"""Training in two phases: on the source first, then on the target."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tljax.method import Batch, Metrics, TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def in_turn(source_steps: int, learn: Step, adapt: Step) -> Step:
  """Returns the step that is `learn` so many times, and `adapt` from then on.

  Both leave the count of steps alone, as `group_step`'s do, and return states and
  metrics of one structure. Where `source_steps` is 0, `learn` is not compiled.
  """

  def step(state, batch):
    after, metrics = choose(state, batch)
    return after.replace(step=state.step + 1), metrics

  def choose(state, batch):
    early = state.step < source_steps
    if source_steps == 0:
      return adapt(state, batch)
    if jax.default_backend() != 'cpu':
      return jax.lax.cond(early, learn, adapt, state, batch)
    # On CPUs XLA computes the gradient of a convolution thirty times slower within a
    # conditional, so both are computed there and one is thrown away.
    both = learn(state, batch), adapt(state, batch)
    return jax.tree.map(functools.partial(jnp.where, early), *both)

  return step
