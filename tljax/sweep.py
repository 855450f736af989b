"""A grid of settings and seeds as one Method: all its heads are trained at once."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.method import Method, TrainState

Settings = Sequence[Mapping[str, float]]  # of each member, all of the same names
# What the members of a train state have of their own.
_AXES = TrainState(None, 0, 0, 0, 0, 0)


def grid(**values: Sequence) -> list[dict]:
  """Returns all combinations: `grid(learning_rate=(1e-4, 1e-3), seed=range(3))`."""
  product = itertools.product(*values.values())
  return [dict(zip(values, row, strict=True)) for row in product]


def method(
  make: Callable[..., Method], settings: Settings, *, own_batches: bool = False
) -> Method:
  """Returns the Method whose step is a step of every member, by `jax.vmap`.

  It is compiled once; each member is what its own Method would be after as many steps.
  The state's leaves have a leading axis of members, the loss is the least of theirs, so
  that one may diverge, and `predict` gives (N, M, K). Memory and time are those of M
  heads where heads are large.

  Args:
    make: `(**settings) -> Method`; the settings are traced float32 numbers.
    settings: of the M members. 'seed' is not passed on: it is the key of the member's
      `init`; without it all have the key that is given.
    own_batches: each member has batches of its own, laid along a leading axis as by
      `batches.stack`; else all see the same.
  """
  size = len(settings)
  names = settings[0].keys() - {'seed'}
  values = {k: jnp.array([s[k] for s in settings], jnp.float32) for k in sorted(names)}
  seeds = np.array([s['seed'] for s in settings]) if 'seed' in settings[0] else None

  def init(key, variables, batch):
    def one(key, values, batch):
      return make(**values).init(key, variables, batch)

    if seeds is None:
      keys = jnp.broadcast_to(key, size)
    else:
      keys = jax.vmap(jax.random.key)(seeds)
    axes = (0, 0, 0 if own_batches else None)
    return jax.vmap(one, axes, out_axes=_AXES)(keys, values, batch)

  def step(state, batch):
    def one(state, values, batch):
      return make(**values).step(state, batch)

    axis = 0 if own_batches else None
    if not own_batches and _elements(state.params) > size * _elements(batch):
      # A copy for each member: where they share one, XLA makes one matrix product of
      # all weights, and transposes them all for it, forth and back. On a CPU a large
      # head's step took 1.6 times as long. Small weights cost less than the copies:
      # sharing took a sixth of the time.
      batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), batch)
      batch, axis = jax.lax.optimization_barrier(batch), 0
    mapped = jax.vmap(one, (_AXES, 0, axis), (_AXES, 0))
    state, metrics = mapped(state, values, batch)
    return state, {'loss': jnp.nanmin(metrics['loss'])}

  def predict(state, images):
    def one(state, values):
      return make(**values).predict(state, images)

    return jax.vmap(one, (_AXES, 0), 1)(state, values)

  return Method(init, step, predict)


def _elements(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def member(state: TrainState, index: int) -> TrainState:
  """Returns the state of one member."""

  rest = jax.tree.map(lambda leaf: leaf[index], state.replace(step=None))
  return rest.replace(step=state.step)
