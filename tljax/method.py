"""The Method: transfer learning as three pure functions. Read this page first.

What `optax.GradientTransformation` is to optimisers, `Method` is to transfer. All
that changes during training is in one `TrainState`, a pytree: it can be jitted,
sharded, donated, saved and resumed without knowing which method made it.

A model is anything with flax linen's `init` and `apply` that returns its outputs
by endpoint: `model.apply(variables, images, train=False)['logits']`. It may have
`hold(variables)`, which brings given ones into the form that its `init` has.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError

Params = Any  # a pytree keyed by part: 'backbone', 'bottleneck', 'head', ...
Variables = Mapping[str, Any]  # {'params': Params, 'batch_stats': ...}
Batch = Mapping[str, Any]  # named streams of arrays with a leading batch axis
Metrics = Mapping[str, jax.Array]  # scalars
Outputs = Mapping[str, jax.Array]  # a model's outputs by endpoint


@flax.struct.dataclass
class TrainState:
  """All that changes during training."""

  step: jax.Array  # int32 (), completed steps; schedules read it
  rng: jax.Array  # key of the run; step t uses fold_in(rng, t)
  params: Params
  model_state: Any  # mutable collections, such as batch_stats
  opt_state: optax.OptState
  memory: Any = ()  # a teacher, a queue, the pretrained weights

  @property
  def variables(self) -> dict[str, Any]:
    """What the model's `apply` takes, and another method's `init`."""
    return {'params': self.params, **self.model_state}


class Method(NamedTuple):
  """A transfer-learning method.

  Attributes:
    init: `(key, variables, batch) -> state`. Parts that `variables` (None, or a
      pretrained model's) does not hold are freshly initialised.
    step: `(state, batch) -> (state, metrics)`. `train.fit` jits it and donates
      the state.
    predict: `(state, images) -> logits`. What is deployed.
  """

  init: Callable[[jax.Array, Variables | None, Batch], TrainState]
  step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  predict: Callable[[TrainState, jax.Array], jax.Array]


# (params, state, batch, rng) -> (loss, (model_state, metrics))
LossFn = Callable[
  [Params, TrainState, Batch, jax.Array], tuple[jax.Array, tuple[Any, dict]]
]


def new_state(
  key: jax.Array,
  model: Any,
  optimizer: optax.GradientTransformation,
  images: jax.Array,
  variables: Variables | None = None,
  *,
  init_params: Callable[[jax.Array, Outputs], Params] | None = None,
) -> TrainState:
  """Builds the state of a run.

  Args:
    key: typed key of the run.
    model: the model; initialised on `images`, of which only shape and dtype matter.
    optimizer: its state covers the model's and the extra parameters.
    images: a batch, (N, H, W, C) float32 in [0, 1].
    variables: pretrained variables. A part that they lack is drawn from `key`.
    init_params: `(key, outputs) -> {part: params}` draws parameters beside the
      model's, such as a discriminator's, from the model's abstract outputs.

  Raises:
    InputError: a pretrained leaf does not fit the model; the leaf is named.
  """
  model_key, extra_key, run_key = jax.random.split(key, 3)
  model_variables = complete_variables(model_key, model, images, variables)
  params = dict(model_variables.pop('params'))
  if init_params is not None:
    outputs = jax.eval_shape(
      lambda v: model.apply(v, images, train=False),
      {'params': params, **model_variables},
    )
    params |= init_params(extra_key, outputs)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    rng=run_key,
    params=params,
    model_state=model_variables,
    opt_state=optimizer.init(params),
  )


def complete_variables(
  key: jax.Array, model: Any, images: jax.Array, variables: Variables | None
) -> dict[str, Any]:
  """Returns copies of `variables`, with freshly drawn parts where it has none.

  They are copies because `train.fit` donates the state they go into.
  """

  init = _jitted_init(model)
  if not variables:
    return dict(init(key, images))
  variables = model.hold(variables) if hasattr(model, 'hold') else variables
  wanted = jax.eval_shape(init, key, images)
  unknown = sorted(set(variables) - set(wanted))
  if unknown:
    raise InputError(
      f'{unknown[0]!r}: the model has no such collection (it has {sorted(wanted)})'
    )
  missing = frozenset(
    (collection, part)
    for collection in wanted
    for part in wanted[collection]
    if part not in variables.get(collection, {})
  )
  fresh = _jitted_init(model, missing)(key, images) if missing else {}

  def take(collection):
    given = variables.get(collection, {})
    unknown = sorted(set(given) - set(wanted[collection]))
    if unknown:
      raise InputError(
        f'{collection}/{unknown[0]}: the model has no such part '
        f'(it has {sorted(wanted[collection])})'
      )
    parts = {
      part: _fit(f'{collection}/{part}', tree, given[part])
      if part in given
      else fresh[collection][part]
      for part, tree in wanted[collection].items()
    }
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), parts)

  return {collection: take(collection) for collection in wanted}


@functools.lru_cache(maxsize=8)
def _jitted_init(
  model: Any, parts: frozenset[tuple[str, str]] | None = None
) -> Callable[[jax.Array, jax.Array], Variables]:
  """Cached, so that every seed's initialisation is one compilation.

  With `parts`, (collection, part), these alone are drawn, as they would be with all:
  XLA takes seconds to compile the draws of a network, which a pretrained one spares.
  """

  def init(key, images):
    drawn = model.init(key, images, train=False)
    if parts is None:
      return drawn
    return {
      collection: {k: v for k, v in tree.items() if (collection, k) in parts}
      for collection, tree in drawn.items()
    }

  return jax.jit(init)


def _fit(name: str, wanted: Any, given: Any) -> Any:
  """Returns `given`, whose leaves must be named and shaped as those of `wanted`."""

  def by_path(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf.shape for path, leaf in leaves}

  want, have = by_path(wanted), by_path(given)
  for path in sorted(want.keys() | have.keys()):
    if want.get(path) != have.get(path):
      raise InputError(
        f'{name}/{path}: the model wants shape {want.get(path, "no such leaf")}, '
        f'the given variables have {have.get(path, "no such leaf")}'
      )
  return given


def path_name(path: tuple[Any, ...]) -> str:
  """A leaf's path as text: 'backbone/stage1/conv/kernel'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def apply_train(
  model: Any, params: Params, state: TrainState, images: jax.Array, rng: jax.Array
) -> tuple[Outputs, Any]:
  """Runs the model in training mode.

  Returns:
    Its outputs by endpoint and its updated mutable collections.
  """
  variables = {'params': params, **state.model_state}
  outputs, model_state = model.apply(
    variables,
    images,
    train=True,
    mutable=list(state.model_state),
    rngs={'dropout': rng},
  )
  return outputs, dict(model_state)


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
  """Whether all parameters are: those that a step of a finite loss left may not be."""
  leaves = jax.tree.leaves(state.params)
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def predict_with(model: Any) -> Callable[[TrainState, jax.Array], jax.Array]:
  """Returns `(state, images) -> logits` of the model in evaluation mode."""

  def predict(state, images):
    return model.apply(state.variables, images, train=False)['logits']

  return predict


def value_and_grad(loss_fn: Callable) -> Callable:
  """As jax's, of a loss with results beside it; integers' gradients are zeros.

  They are frozen, such as kernels in int8, but an optimiser takes whole trees.
  """
  gradient = jax.value_and_grad(loss_fn, has_aux=True, allow_int=True)

  def value_and_zeros(params, *args):
    value, grads = gradient(params, *args)
    return value, jax.tree.map(
      lambda leaf, grad: grad if can_move(leaf) else jnp.zeros_like(leaf), params, grads
    )

  return value_and_zeros


def can_move(leaf: jax.Array) -> bool:
  """Whether the leaf can: one of integers is frozen."""
  return jnp.issubdtype(leaf.dtype, jnp.inexact)


def follow(old: Any, new: Any, share: float | jax.Array) -> Any:
  """Returns the tree that has gone a share of the way from `old` to `new`.

  Every leaf keeps its dtype, and what is frozen in bfloat16 or integers its bits.
  """

  def move(old, new):
    if not can_move(old):
      return old
    wide = jnp.promote_types(old.dtype, jnp.float32)
    average = optax.incremental_update(new.astype(wide), old.astype(wide), share)
    return average.astype(old.dtype)

  return jax.tree.map(move, old, new)


def _apply_updates(params, updates):
  def check(path, leaf, update):
    if not can_move(leaf) and update.dtype != leaf.dtype:  # of `set_to_zero` it is
      raise InputError(
        f'{path_name(path)} is of {leaf.dtype}, which cannot train; freeze it'
      )

  jax.tree_util.tree_map_with_path(check, params, updates)
  return optax.apply_updates(params, updates)


def gradient_step(
  loss_fn: LossFn, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Builds the step that most methods have: one gradient of one loss."""

  def step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    gradient = value_and_grad(loss_fn)
    (loss, (model_state, metrics)), grads = gradient(state.params, state, batch, rng)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
      step=state.step + 1,
      params=_apply_updates(state.params, updates),
      model_state=model_state,
      opt_state=opt_state,
    )
    return state, {'loss': loss, **metrics}

  return step


def group_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  moves: Callable[[str], bool],
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Builds a step that moves only the parts of the parameters that `moves` names.

  A method whose parts have opposing losses calls several in turn, then adds 1 to
  `state.step`, which these leave alone: schedules, and the step's randomness, are the
  same for all of them.

  Args:
    loss_fn: of all parameters.
    optimizer: of `optimizers.apart`, as `new_state` was given.
    moves: whether a part, such as 'head', is moved.
  """

  def step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)

    def loss_of(mine):
      return loss_fn({**state.params, **mine}, state, batch, rng)

    mine = {part: tree for part, tree in state.params.items() if moves(part)}
    (loss, (model_state, metrics)), grads = value_and_grad(loss_of)(mine)
    before = _set_schedules(state.opt_state, state.step)
    updates, opt_state = optimizer.update(grads, before, state.params)
    state = state.replace(
      params=state.params | _apply_updates(mine, updates),
      model_state=model_state,
      opt_state=opt_state,
    )
    return state, {'loss': loss, **metrics}

  return step


def _set_schedules(opt_state, step):
  """Returns the optimiser's state with its schedules at `step`."""

  def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)

  def at_step(leaf):
    return leaf._replace(count=jnp.full_like(leaf.count, step))

  return jax.tree.map(
    lambda leaf: at_step(leaf) if is_schedule(leaf) else leaf,
    opt_state,
    is_leaf=is_schedule,
  )
