"""A grid of settings and seeds as one Method: all its heads are trained at once."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.method import Method, TrainState, all_finite
from tljax.models import products

Settings = Sequence[Mapping[str, float]]  # of each member, all of the same names


def grid(**values: Sequence) -> list[dict]:
  """Returns all combinations: `grid(learning_rate=(1e-4, 1e-3), seed=range(3))`."""
  product = itertools.product(*values.values())
  return [dict(zip(values, row, strict=True)) for row in product]


def method(
  make: Callable[..., Method], settings: Settings, *, own_batches: bool = False
) -> Method:
  """Returns the Method whose step is a step of every member, by `jax.vmap`.

  It is compiled once; each member is what its own Method would be after as many steps.
  `member` has its state of all; the loss is the least of theirs, so that one may
  diverge, and `predict` gives (N, M, K). Memory and time are those of M heads where
  heads are large.

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
    first = TrainState(None, 0, 0, 0, 0, 0)
    state = jax.vmap(one, axes, out_axes=first)(keys, values, batch)
    return _of_each(lambda leaf, axis: jnp.moveaxis(leaf, 0, axis), state, own_batches)

  def step(state, batch):
    def one(state, values, batch):
      return make(**values).step(state, batch)

    axes = _axes(state, own_batches)
    mapped = jax.vmap(one, (axes, 0, 0 if own_batches else None), (axes, 0))
    with products.as_they_lie():
      state, metrics = mapped(state, values, batch)
    return state, {'loss': jnp.nanmin(metrics['loss'])}

  def predict(state, images):
    def one(state, values):
      return make(**values).predict(state, images)

    return jax.vmap(one, (_axes(state, own_batches), 0), 1)(state, values)

  return Method(init, step, predict)


@jax.jit
def any_finite(state: TrainState) -> jax.Array:
  """Whether a member's parameters all are, of members that share their batches."""
  return jax.vmap(all_finite, (_axes(state, False),))(state).any()


def member(state: TrainState, index: int, *, own_batches: bool = False) -> TrainState:
  """Returns the state of one member; `own_batches` as `method` was told."""
  return _of_each(lambda leaf, axis: jnp.take(leaf, index, axis), state, own_batches)


def _of_each(function, state, own_batches):
  """Maps `(leaf, the members' axis in it)` over all that members have of their own."""
  axes = _axes(state, own_batches)
  return jax.tree.map(function, state.replace(step=None), axes).replace(step=state.step)


def _axes(state, own_batches):
  """The members' axis in each leaf of a state, None in the step, which they share.

  Where they see the same batch it is beside a kernel's outputs: all members' products
  with the batch are one, of the kernels as they lie. With the members first XLA would
  transpose all kernels in each step.
  """
  axes = jax.tree.map(lambda leaf: 0 if own_batches else max(leaf.ndim - 2, 0), state)
  return axes.replace(step=None)
