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

  Raises:
    InputError: it does not divide by their number.
  """
  sharding = NamedSharding(mesh, PartitionSpec('data'))

  def put(array):
    if np.shape(array)[0] % mesh.size:
      raise InputError(
        f'a batch of {np.shape(array)[0]} does not divide over {mesh.size} devices; '
        f'choose a --batch-size that is a multiple of {mesh.size}'
      )
    return jax.device_put(array, sharding)

  return jax.tree.map(put, batch)
