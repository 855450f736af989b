"""Where arrays live: a mesh of all devices, and rules that say what each one holds.

Batches are split over every axis of the mesh. Along 'data' each device holds the whole
train state; along 'fsdp' the devices share parameters and optimiser state (ZeRO,
Rajbhandari et al., 2020), which XLA gathers a layer at a time as they are used.

Arrays are global and a jitted step is the program of one device, so every statistic of
a batch is one of the whole batch, over all devices and processes: a batch norm's
moments, per domain or of both, the MMD, CORAL, a nuclear norm.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tljax.errors import InputError

# Elements of a leaf below which to share it saves less than to gather it costs: of a
# ResNet-50 all such leaves together are 0.6% of the parameters.
_SMALL = 1 << 14


def data_mesh(devices=None) -> Mesh:
  """Returns the mesh of all devices along one axis, 'data'."""
  return _mesh({'data': len(jax.devices() if devices is None else devices)}, devices)


def parse_mesh(text: str, devices=None) -> Mesh:
  """Returns the mesh that `text` describes: 'data=8', or 'data=4,fsdp=2'.

  Raises:
    InputError: it describes none, or one of another number of devices.
  """
  count = len(jax.devices() if devices is None else devices)
  try:
    axes = {name: int(size) for name, size in (x.split('=') for x in text.split(','))}
  except ValueError:
    axes = {}
  if not axes or not axes.keys() <= {'data', 'fsdp'} or min(axes.values()) < 1:
    raise InputError(f'--mesh {text}: write data=8, or data=4,fsdp=2')
  if math.prod(axes.values()) != count:
    raise InputError(
      f'--mesh {text}: the product must be {count}, the devices there are'
    )
  return _mesh(axes, devices)


def _mesh(axes, devices):
  # Auto, not the default Explicit: linen modules do not annotate their arrays.
  types = (AxisType.Auto,) * len(axes)
  return jax.make_mesh(tuple(axes.values()), tuple(axes), types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole, such as the metrics."""
  return NamedSharding(mesh, PartitionSpec())


def of_batch(mesh: Mesh) -> NamedSharding:
  """Sharding of an array whose leading axis counts a batch's examples."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def of_state(state: Any, mesh: Mesh) -> Any:
  """Shardings of a train state, leaf by leaf, by shape alone.

  The largest dimension that divides is split over 'fsdp', the last of several; small
  leaves, and those of which none divides, are whole everywhere. An optimiser's state
  has its parameters' shapes, and so their shardings.

  Args:
    state: a pytree of arrays or of their shapes.
    mesh: where to.
  """
  share = mesh.shape.get('fsdp', 1)

  def rule(leaf):
    fitting = [i for i, size in enumerate(leaf.shape) if size % share == 0]
    if share == 1 or math.prod(leaf.shape) < _SMALL or not fitting:
      return replicated(mesh)
    split = max(fitting, key=lambda i: (leaf.shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*[None] * split, 'fsdp'))

  return jax.tree.map(rule, state)


def put(tree: Any, shardings: Any) -> Any:
  """Places a tree of arrays, each of which every process has whole, or placed already.

  Of an array of the host no device gets more than its share.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)

  def place(leaf, sharding):
    if isinstance(leaf, np.ndarray):
      return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
    return leaf

  tree = jax.tree.map(place, tree, shardings)
  if jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, tree, shardings)):
    return tree
  # Onto devices of other processes `device_put` takes no typed keys.
  return jax.jit(lambda tree: tree, out_shardings=shardings)(tree)


def in_shares(function: Callable[..., Any], mesh: Mesh, *arguments) -> Callable:
  """Returns `function` of such arguments, jitted, so that each device computes of the
  result the share that `of_state` gives it, and never holds the whole.
  """
  shardings = of_state(jax.eval_shape(function, *arguments), mesh)
  return jax.jit(function, out_shardings=shardings)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Splits every array's leading axis over the devices.

  Args:
    batch: arrays of the host, which are this process's rows of the batch, or arrays
      on devices, which are all of it.
    mesh: of the devices of all processes.

  Raises:
    InputError: the batch does not divide by the number of devices.
  """
  sharding = of_batch(mesh)

  def place(array):
    is_local = isinstance(array, np.ndarray)
    rows = len(array) * (jax.process_count() if is_local else 1)
    if rows % mesh.size:
      raise InputError(
        f'a batch of {rows} does not divide over {mesh.size} devices; '
        f'choose a --batch-size that is a multiple of {mesh.size}'
      )
    if is_local and jax.process_count() > 1:
      return jax.make_array_from_process_local_data(sharding, array)
    if not is_local and array.sharding.is_equivalent_to(sharding, array.ndim):
      return array
    return jax.device_put(array, sharding)

  return jax.tree.map(place, batch)


def rows_here(mesh: Mesh, rows: int) -> np.ndarray:
  """Which rows of a batch this process's devices take; `shard_batch` wants these."""
  slices = of_batch(mesh).addressable_devices_indices_map((rows,)).values()
  return np.unique(np.concatenate([np.arange(rows)[where] for where in slices]))


def of_processes() -> Mesh | None:
  """Mesh of all devices of several processes; None of one, which has its first."""
  return data_mesh() if jax.process_count() > 1 else None


def mesh_of(tree: Any) -> Mesh | None:
  """Mesh of several devices that a tree's arrays live on; None where they have none."""
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, 'sharding', None)
    if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
      return sharding.mesh
  return None
