"""Where arrays live: one data-parallel mesh over all devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tljax.errors import InputError


def data_mesh(devices=None) -> jax.sharding.Mesh:
  """Returns the mesh of all devices along one axis, 'data'."""
  devices = jax.devices() if devices is None else devices
  # Auto, not the default Explicit: linen modules do not annotate their arrays.
  return jax.make_mesh(
    (len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Sharding of what every device holds whole: the train state, the metrics."""
  return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Splits every array's leading axis over the devices.

  Args:
    batch: arrays of the host, which are this process's rows of the batch, or arrays
      on devices, which are all of it.
    mesh: of the devices of all processes.

  Raises:
    InputError: the batch does not divide by the number of devices.
  """
  sharding = NamedSharding(mesh, PartitionSpec('data'))

  def put(array):
    is_local = isinstance(array, np.ndarray)
    rows = len(array) * (jax.process_count() if is_local else 1)
    if rows % mesh.size:
      raise InputError(
        f'a batch of {rows} does not divide over {mesh.size} devices; '
        f'choose a --batch-size that is a multiple of {mesh.size}'
      )
    if is_local:
      return jax.make_array_from_process_local_data(sharding, array)
    return jax.device_put(array, sharding)

  return jax.tree.map(put, batch)
