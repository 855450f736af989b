"""What every method keeps, whatever it is: found by discovery, built with defaults."""

import chex
import jax
import numpy as np
import optax
import pytest

from tljax import adaptation, finetuning, sharding, train
from tljax.run import Run

FAMILIES = {'adaptation': adaptation, 'finetuning': finetuning}
METHODS = [(name, m) for name, family in FAMILIES.items() for m in family.names()]
pytestmark = pytest.mark.parametrize(
  ('family', 'name'), METHODS, ids=[f'{f}.{m}' for f, m in METHODS]
)


@pytest.fixture(autouse=True, scope='module')
def compile_fast():
  """These networks are tiny and compile for far longer than they compute."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def stream(family_batches, family):
  return family_batches[family]


@pytest.fixture
def build(model, family, name, stream):
  """Returns `(optimizer, seed) -> method, state`."""

  def build(optimizer, seed=0):
    method = FAMILIES[family].create(name, model, optimizer)
    return method, method.init(jax.random.key(seed), None, stream(0))

  return build


@pytest.fixture
def fit(build, stream, one_device):
  """Returns `(steps, ...) -> state, records`: Adam, one device."""

  def fit(steps, seed=0, **options):
    method, state = build(optax.adam(3e-3), seed)
    return train.fit(
      method, state, stream, steps, **{'every': 1, 'mesh': one_device, **options}
    )

  return fit


def test_trains_without_a_target_label(fit, stream):
  assert 'label' not in stream(0).get('target', {})
  # The task's own, where there is one: a sum with an adversary's gains goes either way.
  records = fit(200)[1]  # few parameters, on a random network, take longer than many
  losses = np.array([record.get('task_loss', record['loss']) for record in records])
  assert np.all(np.isfinite(losses))
  assert losses[-5:].mean() < 0.9 * losses[:5].mean()


@pytest.mark.parametrize('devices', [1, 8])
def test_compiles_once_and_donates_its_state(build, stream, caplog, devices):
  mesh = sharding.data_mesh(jax.devices()[:devices])
  method, state = build(optax.adam(3e-3))
  state = jax.device_put(state, sharding.replicated(mesh))
  with jax.log_compiles():
    train.fit(method, state, stream, 4, mesh=mesh)
  compiling = f'Compiling jit({method.step.__name__})'
  assert sum(compiling in message for message in caplog.messages) == 1
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_the_seed_fixes_every_bit(fit, raw):
  first, again, other = (raw(fit(4, seed)[0]) for seed in (0, 0, 1))
  assert first == again
  kernels = [name for name in first if name.startswith('params/') and 'kernel' in name]
  assert kernels and all(first[name] != other[name] for name in kernels)


def test_resumes_bit_equal(fit, raw, tmp_path):
  whole, _ = fit(6)
  run = Run.open(tmp_path, {}, resume=False)
  fit(4, run=run)
  resumed, records = fit(6, run=run)
  assert raw(resumed) == raw(whole)
  assert [record['step'] for record in records] == list(range(1, 7))
  assert [record['step'] for record in run.records()] == list(range(1, 7))


def test_eight_devices_are_as_one(build, stream):
  states = []
  for devices in (1, 8):
    method, state = build(optax.sgd(0.05))
    mesh = sharding.data_mesh(jax.devices()[:devices])
    state, _ = train.fit(method, state, stream, 5, mesh=mesh)
    states.append(jax.device_get((state.params, state.model_state)))
  chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-5)


def test_the_pretrained_variables_survive_training(
  build, fit, model, family, name, stream, one_device, raw
):
  pretrained = fit(1)[0].variables
  pretrained['params'] = {k: pretrained['params'][k] for k in ('backbone', 'head')}
  before = raw(pretrained)
  method, _ = build(optax.adam(3e-3))
  state = method.init(jax.random.key(0), pretrained, stream(0))
  assert {k: raw(state.variables)[k] for k in before} == before
  train.fit(method, state, stream, 2, mesh=one_device)
  assert raw(pretrained) == before


def test_prediction_is_of_the_images_alone(build, stream):
  method, state = build(optax.sgd(0.1))
  batch = stream(0)
  images = batch.get('source', batch)['image']
  logits = method.predict(state, images)
  assert logits.shape == (len(images), 10)
  np.testing.assert_allclose(method.predict(state, images[:3]), logits[:3], rtol=1e-4)
