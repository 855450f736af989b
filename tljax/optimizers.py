"""Rates by depth, decay of kernels alone: parts to chain with optax's optimisers.

  optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule, weight_decay=0.05, mask=decay_mask),
    layer_decay(model.spec, 0.75),
  )

Given to `labels.freeze`, such a chain sees what trains alone: frozen leaves are not in
the clipped norm and have no moments. The schedules are `inverse_decay` and optax's:
`warmup_cosine_decay_schedule`, `piecewise_constant_schedule` for steps,
`join_schedules`. To accumulate the gradients of k batches give
`optax.MultiSteps(optimizer, k).gradient_transformation()`; its schedules count the
updates, a k-th of the steps. Methods that move parts `apart` refuse it.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError
from tljax.method import Params, path_name
from tljax.models import Spec

_SLOW = 'backbone/', 'source_head/', 'projector/'


def decay_mask(params: Params) -> Any:
  """Returns the tree of bools of the leaves that weight decay is for: the kernels.

  Not for biases, norms, position embeddings, tokens, layer scales and LoRA's a and b.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path_name(path).split('/')[-1] == 'kernel', params
  )


def inverse_decay(
  rate: float, *, gamma: float = 0.001, power: float = 0.75
) -> optax.Schedule:
  """Returns the schedule rate (1 + gamma step)^-power.

  That of DANN (Ganin et al., 2016, section 5.2.2) with the step in place of progress;
  the defaults are the published libraries'.
  """

  def schedule(step):
    return rate * (1.0 + gamma * jnp.asarray(step, jnp.float32)) ** -power

  return schedule


def depth(spec: Spec, name: str) -> int:
  """Returns the label of a parameter by depth.

  It is 0 in the backbone's bottom stage, then one more each stage; what is above the
  stages, such as the head and a transformer's last norm, has the largest.

  Args:
    spec: the model's; its stages are the layers.
    name: path of the parameter, such as 'backbone/stage1/conv/kernel'.
  """
  stages = [stage for stage in spec.stages if stage != 'norm']
  part, stage, *_ = [*name.split('/'), '']
  return stages.index(stage) if part == 'backbone' and stage in stages else len(stages)


def layer_decay(spec: Spec, decay: float = 0.75) -> optax.GradientTransformation:
  """Multiplies updates by decay^(top - depth): the lower the layer, the slower.

  Layer-wise learning-rate decay (Bao et al., 2022, BEiT, appendix; Clark et al.,
  2020). What is above the stages has the whole rate, the source's classifier of
  Co-Tuning and LwF too. Chain it after the optimiser, so that it scales rates and not
  gradients.
  """
  top = depth(spec, 'head')
  return _scale(lambda name, _: decay ** (top - depth(spec, name)))


def backbone_rate(factor: float = 0.1) -> optax.GradientTransformation:
  """Multiplies the backbone's updates by `factor`: a rate of its own beside the head's.

  The source's classifier of Co-Tuning and LwF, and Bi-tuning's projector, have the
  backbone's, as in the Transfer Learning Library. Chain it after the optimiser.
  """
  return _scale(lambda name, _: factor if name.startswith(_SLOW) else 1.0)


def gradual_unfreezing(spec: Spec, every: int) -> optax.GradientTransformation:
  """Lets the head move at once, and every so many steps one stage more, top to bottom.

  As in ULMFiT (Howard & Ruder, 2018, section 3.3). Chain it after the optimiser: the
  moments of a stage that waits are gathered all along, so nothing is compiled again
  and no state is lost or cold when its turn comes. The price is a whole backward pass
  at every step. Batch statistics are not the optimiser's: give the model
  `frozen_norm=True` where they must not move either.
  """
  top = depth(spec, 'head')

  def released(name, step):
    return (step >= (top - depth(spec, name)) * every).astype(jnp.float32)

  return _scale(released)


def apart(
  optimizer: optax.GradientTransformation, *groups: Collection[str]
) -> optax.GradientTransformation:
  """The optimiser of each group of parts, and of the rest, by itself.

  As if each group had one of its own: what Adam counts is the group's, and so is the
  length by which gradients are clipped, where that comes first in a chain. `update`
  takes the gradients of some parts and returns their updates; the others' moments stay
  bit for bit. What is no parameter's in the state, such as a count, has a leading axis
  of groups.

  Args:
    optimizer: of all parameters.
    *groups: names of parts that move together, such as ('discriminator',).

  Raises:
    InputError: by `init`; gradients of several batches are to be accumulated, which
      here would be those of several losses.
  """

  def group_of(part):
    return next((i for i, g in enumerate(groups) if part in g), len(groups))

  def init(params):
    def stack(part, leaf):
      return leaf if part else jnp.stack([leaf] * (len(groups) + 1))

    state = optimizer.init(params)
    if any(map(_accumulates, jax.tree.leaves(state, is_leaf=_accumulates))):
      raise InputError(
        'a method of several losses or phases takes no optax.MultiSteps, which would '
        'add up the gradients of all of them; take larger batches'
      )
    return _map_by_part(stack, params, state)

  def update(grads, state, params):
    updates = {}
    for group in sorted(set(map(group_of, grads))):
      mine = {part: grads[part] for part in grads if group_of(part) == group}
      given, state = update_group(group, mine, state, params)
      updates |= given
    return updates, state

  def update_group(group, grads, state, params):
    def own(part, leaf):
      return leaf if part else leaf[group]

    def merge(part, old, new):
      if part:
        return new if part in grads else old
      return old.at[group].set(new)

    whole = optax.tree.zeros_like(params) | grads
    updates, after = optimizer.update(whole, _map_by_part(own, params, state), params)
    state = _map_by_part(merge, params, state, after)
    return {part: updates[part] for part in grads}, state

  return optax.GradientTransformation(init, update)


def _accumulates(node):
  return isinstance(node, optax.MultiStepsState)


def _map_by_part(function, params, *states):
  """Maps `(part, *leaves)`; the part is None where a leaf is no parameter's.

  A leaf of an optimiser's state belongs to the parameter whose path ends its own.
  """
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  parts = {path: path[0].key for path, _ in leaves}

  def apply(path, *leaves):
    ends = (parts.get(path[i:]) for i in range(len(path)))
    return function(next(filter(None, ends), None), *leaves)

  return jax.tree_util.tree_map_with_path(apply, *states)


def _scale(
  factor: Callable[[str, jax.Array], jax.Array | float],
) -> optax.GradientTransformation:
  """Multiplies updates by `(path, completed steps) -> factor`."""

  def init(params):
    del params
    return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    del params
    updates = jax.tree_util.tree_map_with_path(
      lambda path, leaf: (
        leaf * jnp.asarray(factor(path_name(path), state.count), leaf.dtype)
      ),
      updates,
    )
    return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)
