"""Frozen kernels held in fewer bits: what is computed, kept, saved and refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import oracles
from tljax import models, sharding, train
from tljax.adaptation import dann, mean_teacher
from tljax.errors import InputError
from tljax.finetuning import ema, held, labels, lora, plain, sam, summary
from tljax.method import Method
from tljax.run import Run

BATCH = {'image': jnp.zeros((8, 32, 32, 3)), 'label': jnp.zeros(8, jnp.int32)}
NARROW = {'bfloat16': 2, 'int8': 1}  # bytes of a number
pytestmark = pytest.mark.usefixtures('compile_fast')
narrow = pytest.mark.parametrize('dtype', NARROW)


def frozen(model, dtype, *patterns, optimizer=None):
  patterns = patterns or ('backbone/.*',)
  return labels.freeze(model, optimizer or optax.adamw(1e-2), *patterns, dtype=dtype)


def nbytes(tree):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_int8_is_to_half_a_step_of_each_outputs_scale():
  kernel = np.float32(np.random.default_rng(0).normal(size=(3, 3, 5, 7)))
  kernel *= 10.0 ** np.arange(-3, 4, dtype=np.float32)
  kernel[..., 2] = 0
  got = held.hold(jnp.asarray(kernel), 'int8')
  assert got.values.dtype == jnp.int8 and got.values.shape == kernel.shape
  scale = np.abs(kernel).max((0, 1, 2), keepdims=True) / 127
  error = np.abs(np.asarray(held.release(got)) - kernel)
  assert (error <= 0.501 * scale).all()
  largest = np.abs(np.asarray(got.values)).max((0, 1, 2), keepdims=True)
  np.testing.assert_array_equal(largest, np.where(scale, 127, 0))
  assert held.hold(got, 'int8') is got


@narrow
@pytest.mark.parametrize('name', ['cnn', 'cifar_resnet20', 'vit_tiny_patch16_224'])
def test_logits_are_those_of_the_rounded_kernels_and_near_the_floats(name, dtype):
  size = {'image_size': 32} if name.startswith('vit') else {}
  model = models.create(name, 5, **size)
  images = oracles.images(32, 8)
  variables = jax.jit(model.init)(jax.random.key(1), images)
  narrow_model, _ = frozen(model, dtype)
  small = narrow_model.hold(variables)
  logits = jax.jit(narrow_model.apply)(small, images)['logits']
  rounded = {**small, 'params': held.release(small['params'])}
  again = jax.jit(model.apply)(rounded, images)['logits']
  np.testing.assert_allclose(logits, again, rtol=1e-4, atol=1e-4)
  exact = jax.jit(model.apply)(variables, images)['logits']
  error = np.linalg.norm(logits - exact) / np.linalg.norm(exact - exact.mean())
  assert 0 < error < {'bfloat16': 0.01, 'int8': 0.05}[dtype]
  # All but norms and biases; the head is whole.
  whole = nbytes(variables['params']['backbone'])
  assert nbytes(small['params']['backbone']) < (NARROW[dtype] / 4 + 0.05) * whole
  assert {leaf.dtype.name for leaf in jax.tree.leaves(small['params']['head'])} == {
    'float32'
  }


@narrow
@pytest.mark.parametrize('mesh', ['data=8', 'data=4,fsdp=2'])
def test_what_is_held_keeps_every_bit_by_fit_and_resume(
  model, family_batches, raw, tmp_path, dtype, mesh
):
  mesh, stream = sharding.parse_mesh(mesh), family_batches['finetuning']
  method = plain.method(*frozen(model, dtype))
  variables = model.init(jax.random.key(0), stream(0)['image'])
  before = raw(variables)

  def fit(steps, run):
    state = train.begin(method, jax.random.key(1), variables, stream(0), mesh)
    start = raw(state.params)
    return start, train.fit(method, state, stream, steps, run=run, mesh=mesh)[0]

  start, whole = fit(5, None)
  run = Run.open(tmp_path, {}, resume=False)
  fit(3, run)
  _, resumed = fit(5, run)
  assert raw(resumed) == raw(whole) and raw(variables) == before
  after = raw(whole.params)
  moved = {name for name in start if start[name] != after[name]}
  assert moved == {name for name in start if name.startswith('head/')}
  kernel = whole.params['backbone']['stage1']['conv']['kernel']
  assert dtype in {leaf.dtype.name for leaf in jax.tree.leaves(kernel)}
  # A second method goes on from there, as it is.
  again = method.init(jax.random.key(2), whole.variables, stream(0))
  assert raw(again.params) == after


@narrow
def test_a_step_takes_less_memory(dtype, monkeypatch):
  """Neither does it keep them all in float32 at once."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)  # a call stays one
  model = models.create('cifar_resnet20', 10)

  def taken(dtype):
    method = plain.method(*frozen(model, dtype))
    state = summary.abstract_state(method, None, BATCH)
    return state, summary.compiled_step(method, state, BATCH).memory_analysis()

  (wide, most), (small, least) = taken('float32'), taken(dtype)
  saved = nbytes(wide.params) - nbytes(small.params)
  share = 1 - NARROW[dtype] / 4
  assert saved > (share - 0.05) * nbytes(wide.params['backbone'])
  assert most.argument_size_in_bytes - least.argument_size_in_bytes == saved
  assert nbytes(small.opt_state) == nbytes(wide.opt_state)
  assert least.temp_size_in_bytes < most.temp_size_in_bytes + saved / 4


def after_steps(method, stream, count=4):
  state = method.init(jax.random.key(0), None, stream(0))
  start, step = state, jax.jit(method.step)
  for t in range(count):
    state, metrics = step(state, stream(t))
    assert np.isfinite(metrics['loss'])
  return start, state


@narrow
@jax.numpy_dtype_promotion('standard')  # as methods of users' are
@pytest.mark.parametrize('name', ['sam', 'ema', 'dann', 'mean_teacher', 'lora'])
def test_methods_of_all_sorts_leave_it(model, family_batches, raw, name, dtype):
  parts = frozen(model, dtype)
  method: Method = {
    'sam': lambda: sam.method(*parts),
    'ema': lambda: ema.averaged(plain.method(*parts)),
    'dann': lambda: dann.method(*parts, strength=1.0),
    'mean_teacher': lambda: mean_teacher.method(*parts),
    'lora': lambda: lora.method(parts[0], optax.adamw(1e-2), rank=2),
  }[name]()
  family = 'adaptation' if name in ('dann', 'mean_teacher') else 'finetuning'
  start, state = after_steps(method, family_batches[family])
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (start, state))
  assert shapes[0] == shapes[1]
  before, after = raw(start.params), raw(state.params)
  moved = {name.split('/')[0] for name in before if before[name] != after[name]}
  extra = {'dann': {'discriminator'}, 'lora': {'lora'}}.get(name, set())
  assert moved == {'head', *extra}
  if name == 'ema':
    average, whole = raw(ema.average(state)['params']), raw(state.params)
    assert all(average[n] == whole[n] for n in before if n.endswith(('values', 'conv')))
  if name == 'lora':
    images = family_batches[family](0)['image']
    merged = model.apply(lora.merge(state.variables), images)['logits']
    np.testing.assert_allclose(
      method.predict(state, images), merged, rtol=1e-4, atol=1e-5
    )


@narrow
def test_what_trains_below_has_the_gradient_of_the_rounded(
  model, family_batches, dtype
):
  """Surgical tuning, of the bottom stage, whose gradient comes through what is held."""
  batch, above = family_batches['finetuning'](0), labels.all_but(model.spec, 'stage1')
  parts = [
    frozen(model, d, above, optimizer=optax.sgd(1.0)) for d in (dtype, 'float32')
  ]
  small = parts[0][0].hold(model.init(jax.random.key(0), batch['image']))
  rounded = {**small, 'params': held.release(small['params'])}
  after = [
    m.step(m.init(jax.random.key(1), v, batch), batch)[0].params['backbone']['stage1']
    for m, v in zip((plain.method(*p) for p in parts), (small, rounded), strict=True)
  ]
  chex.assert_trees_all_close(*after, rtol=1e-4, atol=1e-6)
  start = small['params']['backbone']['stage1']['conv']['kernel']
  assert np.abs(after[0]['conv']['kernel'] - start).max() > 1e-3


@pytest.mark.parametrize(
  ('patterns', 'dtype', 'named'),
  [
    (('backbone/.*',), 'int4', "'int4'; choose one of float32, bfloat16, int8"),
    ((), 'int8', 'what trains is not held in int8; say what to freeze'),
  ],
)
def test_what_cannot_be_held_is_named(model, patterns, dtype, named):
  with pytest.raises(InputError, match=named):
    labels.freeze(model, optax.sgd(0.1), *patterns, dtype=dtype)


@jax.numpy_dtype_promotion('standard')  # optax's product of a rate and an integer
def test_integers_that_an_optimiser_would_move_are_named(model, family_batches):
  only_model, _ = frozen(model, 'int8')
  method, batch = plain.method(only_model, optax.sgd(0.1)), family_batches['finetuning']
  state = method.init(jax.random.key(0), None, batch(0))
  with pytest.raises(InputError, match='conv/kernel/values is of int8, which cannot'):
    method.step(state, batch(0))


@narrow
def test_the_summary_counts_parameters_as_of_floats(dtype):
  model, adam = models.create('cnn', 10), optax.adam(1e-3)
  groups = [
    summary.groups(summary.abstract_state(plain.method(*parts), None, BATCH), optimizer)
    for optimizer in (adam,)
    for parts in (frozen(model, 'float32'), frozen(model, dtype))
  ]
  assert groups[0] == groups[1]
