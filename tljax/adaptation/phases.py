"""Training in two phases: on the source first, then on the target."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tljax.method import Batch, Metrics, TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def in_turn(
  source_steps: int,
  learn: Step,
  adapt: Step,
  optimizer: optax.GradientTransformation,
) -> Step:
  """Returns the step that is `learn` so many times, and `adapt` from then on.

  The optimiser starts anew with the second phase, as the published codes build another:
  the first one's moments are of another loss. Both steps leave the count of steps
  alone, as `group_step`'s do, and return states and metrics of one structure. Where
  `source_steps` is 0, `learn` is not compiled.
  """

  def step(state, batch):
    after, metrics = choose(state, batch)
    return after.replace(step=state.step + 1), metrics

  def choose(state, batch):
    early = state.step < source_steps
    if source_steps == 0:
      return adapt(state, batch)
    if jax.default_backend() != 'cpu':
      return jax.lax.cond(early, learn, begin, state, batch)
    # On CPUs XLA computes the gradient of a convolution thirty times slower within a
    # conditional, so both are computed there and one is thrown away.
    both = learn(state, batch), begin(state, batch)
    return jax.tree.map(functools.partial(jnp.where, early), *both)

  def begin(state, batch):
    renew = functools.partial(jnp.where, state.step == source_steps)
    new = jax.tree.map(renew, optimizer.init(state.params), state.opt_state)
    return adapt(state.replace(opt_state=new), batch)

  return step
