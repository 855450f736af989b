import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tljax import sharding
from tljax.errors import InputError


def test_the_tests_have_eight_devices():
  assert sharding.data_mesh().size == jax.device_count() == 8


def test_shard_batch_gives_each_device_its_rows():
  mesh = sharding.data_mesh(jax.devices()[:4])
  images = np.arange(24.0, dtype=np.float32).reshape(8, 3)
  batch = sharding.shard_batch({'source': {'image': images}, 'label': images[:4]}, mesh)
  shards = batch['source']['image'].addressable_shards
  rows = {shard.device: np.asarray(shard.data) for shard in shards}
  for i, device in enumerate(mesh.devices.flat):
    np.testing.assert_array_equal(rows[device], images[2 * i : 2 * i + 2])
  assert len(batch['label'].addressable_shards) == 4


def test_shard_batch_that_does_not_divide():
  with pytest.raises(InputError, match='batch of 12 .* 8 devices.*multiple of 8'):
    sharding.shard_batch({'image': np.zeros((12, 3))}, sharding.data_mesh())


def test_replicated_is_whole_everywhere():
  state = jax.device_put(np.arange(3.0), sharding.replicated(sharding.data_mesh()))
  assert state.sharding.spec == PartitionSpec()
  assert {shard.data.shape for shard in state.addressable_shards} == {(3,)}
