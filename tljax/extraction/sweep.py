"""A grid of settings and seeds as one Method: all its heads are trained at once."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.method import Method, TrainState

Members = Mapping[str, np.ndarray]  # by setting, its value in each member (M,)
# What the members of a train state have of their own.
_AXES = TrainState(None, 0, 0, 0, 0, 0)


def grid(**values: Sequence[float]) -> Members:
  """Returns all combinations: `grid(learning_rate=(1e-4, 1e-3), seed=range(3))`."""
  product = list(itertools.product(*values.values()))
  columns = zip(*product, strict=True)
  return {
    name: np.array(column, np.int32 if name == 'seed' else np.float32)
    for name, column in zip(values, columns, strict=True)
  }


def method(make: Callable[..., Method], members: Members) -> Method:
  """Returns the Method whose step is a step of every member, by `jax.vmap`.

  It is compiled once. All members see the same batches; each is what its own Method
  would be after as many steps. The state's leaves have a leading axis of members, the
  loss is the least of theirs, so that one may diverge, and `predict` gives
  (N, M, K). Memory and time are those of M heads where heads are large.

  Args:
    make: `(**settings) -> Method`; the settings are traced numbers.
    members: their settings; 'seed', by default 0, is not passed on: it is the key of
      the member's `init`.
  """
  size = len(next(iter(members.values())))
  settings = {k: jnp.asarray(v) for k, v in members.items() if k != 'seed'}
  seeds = jnp.asarray(members.get('seed', np.zeros(size, np.int32)))

  def init(key, variables, batch):
    del key

    def one(seed, settings):
      return make(**settings).init(jax.random.key(seed), variables, batch)

    return jax.vmap(one, out_axes=_AXES)(seeds, settings)

  def step(state, batch):
    def one(state, settings):
      return make(**settings).step(state, batch)

    state, metrics = jax.vmap(one, (_AXES, 0), (_AXES, 0))(state, settings)
    return state, {'loss': jnp.nanmin(metrics['loss'])}

  def predict(state, images):
    def one(state, settings):
      return make(**settings).predict(state, images)

    return jax.vmap(one, (_AXES, 0), 1)(state, settings)

  return Method(init, step, predict)


def member(state: TrainState, index: int) -> TrainState:
  """Returns the state of one member."""

  rest = jax.tree.map(lambda leaf: leaf[index], state.replace(step=None))
  return rest.replace(step=state.step)


def choose(members: Members, scores: np.ndarray) -> np.ndarray:
  """Returns the members of the best settings: those of the largest mean over seeds.

  Args:
    members: of the grid.
    scores: (M,) on the validation split.

  Returns:
    Indices, one a seed.
  """
  settings = [v for k, v in members.items() if k != 'seed']
  rows = list(zip(*settings, strict=True)) or [()] * len(scores)
  groups = {row: np.array([row == other for other in rows]) for row in rows}
  best = max(groups.values(), key=lambda group: np.mean(scores[group]))
  return np.flatnonzero(best)
