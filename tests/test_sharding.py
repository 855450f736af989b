import math
import re

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tljax import models, sharding, train
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.measures import shift


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


@pytest.mark.parametrize(
  ('text', 'shape'),
  [('data=8', {'data': 8}), ('data=4,fsdp=2', {'data': 4, 'fsdp': 2})],
)
def test_parse_mesh(text, shape):
  assert dict(sharding.parse_mesh(text).shape) == shape


@pytest.mark.parametrize('text', ['', '8', 'data=x', 'model=8', 'data=0', 'data=-8'])
def test_a_mesh_that_is_none(text):
  with pytest.raises(InputError, match='write data=8, or data=4,fsdp=2'):
    sharding.parse_mesh(text)


@pytest.mark.parametrize('text', ['data=4', 'data=4,fsdp=4'])
def test_a_mesh_of_another_number_of_devices(text):
  with pytest.raises(InputError, match='the product must be 8'):
    sharding.parse_mesh(text)


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((3, 3, 64, 128), (None, None, None, 'fsdp')),
    ((4096, 64), ('fsdp',)),
    ((256, 256), (None, 'fsdp')),  # the last of two alike
    ((1001, 64), (None, 'fsdp')),  # the largest does not divide
    ((1001, 333), ()),
    ((64,), ()),  # small
    ((), ()),
  ],
)
def test_of_state_is_a_rule_of_shapes(shape, spec):
  mesh = sharding.parse_mesh('data=2,fsdp=4')
  rule = sharding.of_state(jax.ShapeDtypeStruct(shape, np.float32), mesh)
  assert rule.spec == PartitionSpec(*spec)
  whole = sharding.of_state(np.zeros((64, 1024)), sharding.data_mesh())
  assert whole.spec == PartitionSpec()


def compiled_step(network, size, mesh, optimizer):
  """The state's shapes, its shardings, and a compiled step of fine-tuning on 16."""
  method = plain.method(models.create(network, 10), optimizer)
  batch = {
    'image': jax.ShapeDtypeStruct((16, size, size, 3), np.float32),
    'label': jax.ShapeDtypeStruct((16,), np.int32),
  }
  state = jax.eval_shape(lambda b: method.init(jax.random.key(0), None, b), batch)
  placed = sharding.of_state(state, mesh)
  step = jax.jit(
    method.step,
    donate_argnums=0,
    in_shardings=(placed, sharding.of_batch(mesh)),
    out_shardings=(placed, sharding.replicated(mesh)),
  )
  return state, placed, step.lower(state, batch).compile()


def share(state, placed):
  """Bytes of parameters and optimiser state: those of a device, by those of all."""
  whole = mine = 0
  for tree, shardings in (
    (state.params, placed.params),
    (state.opt_state, placed.opt_state),
  ):
    for leaf, where in zip(*map(jax.tree.leaves, (tree, shardings)), strict=True):
      whole += math.prod(leaf.shape) * leaf.dtype.itemsize
      mine += math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
  return mine / whole


def collectives(compiled, name):
  """Shapes that collectives of this name give, those of small leaves left out."""
  found = re.findall(rf'= f32\[([\d,]+)\]\S* {name}(?:-start)?\(', compiled.as_text())
  shapes = (tuple(map(int, shape.split(','))) for shape in found)
  return sorted(shape for shape in shapes if math.prod(shape) >= 1 << 14)


# Fewer devices share the small network, of which half the bytes are in small leaves.
@pytest.mark.parametrize(
  ('network', 'size', 'text', 'at_most'),
  [
    ('cnn', 32, 'data=2,fsdp=4', 0.6),
    pytest.param('resnet50', 64, 'fsdp=8', 1.05 / 8, marks=pytest.mark.slow),
  ],
)
def test_devices_share_the_state(network, size, text, at_most, compile_fast):
  mesh = sharding.parse_mesh(text)
  state, placed, adam = compiled_step(network, size, mesh, optax.adam(1e-3))
  assert share(state, placed) <= at_most
  pairs = zip(*map(jax.tree.leaves, (state.params, placed.params)), strict=True)
  kernels = {leaf.shape for leaf, where in pairs if not where.is_fully_replicated}
  # Kernels that devices share are gathered as they are used, or activations where these
  # are smaller; gradients are summed, and Adam's moments stay where they are: without
  # any, the same is gathered.
  gathered = collectives(adam, 'all-gather')
  assert kernels & set(gathered)
  assert 'all-reduce' in adam.as_text()
  *_, sgd = compiled_step(network, size, mesh, optax.sgd(1e-3))
  assert gathered == collectives(sgd, 'all-gather')


class Wide(nn.Module):
  """Most of whose bytes are in two kernels."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(512, name='first')(x.reshape(len(x), -1)))
    return {'features': nn.Dense(512, name='second')(x)}


@pytest.mark.parametrize('pretrained', [False, True])
def test_no_device_ever_holds_the_whole_state(raw, pretrained, compile_fast):
  """Nor as it is initialised, nor of pretrained weights; it is the same state."""
  spec = models.Spec(8, 8, (0.5,) * 3, (0.5,) * 3, ('first', 'second'), 512)
  model = models.Classifier(Wide(), models.Linear(10), spec)
  method, mesh = plain.method(model, optax.adam(1e-3)), sharding.parse_mesh('fsdp=8')
  key, batch = jax.random.key(0), {'image': np.zeros((16, 8, 8, 3), np.float32)}
  wanted = method.init(key, None, batch)
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(wanted))
  variables = jax.tree.map(np.asarray, wanted.variables) if pretrained else None
  state = train.begin(method, key, variables, batch, mesh)
  assert raw(state) == raw(wanted)
  assert jax.tree.map(lambda leaf: leaf.sharding, state) == sharding.of_state(
    state, mesh
  )
  variables = sharding.put(variables, sharding.of_state(variables, mesh))
  arguments = key, variables, batch
  compiled = sharding.in_shares(method.init, mesh, *arguments).lower(*arguments)
  assert compiled.compile().memory_analysis().peak_memory_in_bytes < whole / 4


@pytest.mark.parametrize('measure', [shift.mmd, shift.coral])
def test_a_statistic_of_a_batch_is_of_all_devices(measure):
  """And not the mean of the devices' own."""
  rng = np.random.default_rng(0)
  source, target = (np.float32(rng.normal(i, 1 + i, (16, 4))) for i in range(2))
  placed = sharding.shard_batch((source, target), sharding.data_mesh())
  whole = jax.jit(measure)(*placed)
  np.testing.assert_allclose(whole, measure(source, target), rtol=1e-5)
  own = [measure(source[i : i + 2], target[i : i + 2]) for i in range(0, 16, 2)]
  assert abs(np.mean(own) - whole) > 0.1 * abs(whole)
