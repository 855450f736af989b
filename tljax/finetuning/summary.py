"""What a training would move, at what rate, and the memory that its step takes."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from tljax import report
from tljax.finetuning import held
from tljax.method import Batch, Method, Params, TrainState, Variables, path_name


class Group(NamedTuple):
  """A stage of the backbone, or another part of the parameters.

  Attributes:
    parameters: number of them.
    trained: number of those that the optimiser keeps a state for; None where it keeps
      none of what it moves, as plain SGD, so that what the method freezes is not seen.
    rates: least and largest first update of one that is trained, where the optimiser
      is one whose first update is the rate, as Adam's is.
  """

  parameters: int
  trained: int | None
  rates: tuple[float, float]


def abstract_state(
  method: Method, variables: Variables | None, batch: Batch
) -> TrainState:
  """Returns the shapes of the state that the method starts from."""
  return jax.eval_shape(method.init, jax.random.key(0), variables, batch)


def groups(
  state: TrainState, optimizer: optax.GradientTransformation
) -> dict[str, Group]:
  """Returns, by part or 'backbone/STAGE', what trains.

  Args:
    state: of `abstract_state`.
    optimizer: that the method was given, to which it may have added freezing.
  """
  params, counts = jax.eval_shape(held.release, state.params), {}
  moved = _moved(params, state.opt_state)
  given = _moved(params, jax.eval_shape(optimizer.init, params))
  for path, rate in _rates(params, optimizer).items():
    part, stage, *_ = path.split('/')
    name = f'{part}/{stage}' if part == 'backbone' else part
    size, is_moved = moved[path]
    is_known = given[path][1] or not rate
    rate = rate if is_moved or not is_known else None
    counts.setdefault(name, []).append((size, rate, is_known))
  return {name: _group(leaves) for name, leaves in counts.items()}


def _group(leaves):
  rates = [rate for _, rate, _ in leaves if rate is not None]
  trained = sum(size for size, rate, _ in leaves if rate is not None)
  trained = trained if all(is_known for *_, is_known in leaves) else None
  limits = (min(rates), max(rates)) if rates else (0.0, 0.0)
  return Group(sum(size for size, *_ in leaves), trained, limits)


def _moved(params, opt_state):
  """By path, a leaf's size and whether the optimiser has a state for it.

  That state's path ends in the parameter's.
  """
  kept = jax.tree_util.tree_flatten_with_path(opt_state)[0]
  ends = {path_name(path[i:]) for path, _ in kept for i in range(len(path))}
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {path_name(p): (leaf.size, path_name(p) in ends) for p, leaf in leaves}


def _rates(params: Params, optimizer) -> Mapping[str, float]:
  """By path, the first update for a gradient of 1 of a parameter of 0, or the second
  where the first is 0, as at the start of a warm-up.

  Every leaf is one number, so that this costs nothing.
  """
  zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), params)
  ones = jax.tree.map(jnp.ones_like, zeros)
  first, state = optimizer.update(ones, optimizer.init(zeros), zeros)
  second, _ = optimizer.update(ones, state, zeros)
  rates = jax.tree.map(lambda a, b: abs(float(a)) or abs(float(b)), first, second)
  leaves = jax.tree_util.tree_flatten_with_path(rates)[0]
  return {path_name(path): rate for path, rate in leaves}


def compiled_step(
  method: Method, state: TrainState, batch: Batch
) -> jax.stages.Compiled:
  """Returns the method's step, compiled as `train.fit` does it, of arrays or shapes."""
  return jax.jit(method.step, donate_argnums=0).lower(state, batch).compile()


def memory(method: Method, state: TrainState, batch: Batch) -> dict[str, int]:
  """Returns the bytes that a compiled step takes, on this backend.

  Args:
    method: its step is compiled.
    state: of `abstract_state`.
    batch: arrays or shapes.
  """
  return step_memory(compiled_step(method, state, batch))


def step_memory(step: jax.stages.Compiled) -> dict[str, int]:
  """As `memory`, of a `compiled_step`."""
  sizes = step.memory_analysis()
  beside = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  return {
    'state and batch': sizes.argument_size_in_bytes,
    'within the step': sizes.temp_size_in_bytes + beside,
  }


def show(
  method: Method,
  optimizer: optax.GradientTransformation,
  variables: Variables | None,
  batch: Batch,
) -> None:
  """Prints what trains, by group, and the memory of a step; see `groups`, `memory`."""
  state = abstract_state(method, variables, batch)
  rows = [
    {
      'part': name,
      'parameters': f'{group.parameters:,}',
      'trained': '?' if group.trained is None else f'{group.trained:,}',
      'first rate': ' to '.join(f'{rate:.3g}' for rate in sorted({*group.rates})),
    }
    for name, group in groups(state, optimizer).items()
  ]
  report.print_table(rows, 'What trains')
  sizes = memory(method, state, batch)
  row = {name: f'{size / 2**20:.1f} MiB' for name, size in sizes.items()}
  report.print_table([row], f'Memory of a step, on {jax.default_backend()}')
