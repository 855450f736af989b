"""What every method keeps, whatever it is: found by discovery, built with defaults."""

import unittest
from typing import NamedTuple

import chex
import jax
import numpy as np
import optax
import pytest

from tljax import adaptation, finetuning, sharding, train
from tljax.method import TrainState
from tljax.run import Run

FAMILIES = {'adaptation': adaptation, 'finetuning': finetuning}
METHODS = [(name, m) for name, family in FAMILIES.items() for m in family.names()]
# By module: a method's tests follow each other and share what is compiled for it.
pytestmark = [
  pytest.mark.usefixtures('compile_fast'),
  pytest.mark.parametrize(
    ('family', 'name'), METHODS, ids=[f'{f}.{m}' for f, m in METHODS], scope='module'
  ),
]


@pytest.fixture(scope='module')
def stream(family_batches, family):
  return family_batches[family]


@pytest.fixture(scope='module')
def method(model, family, name):
  # As Adam, but where gradients vanish it does not blow up the devices' rounding. RSD's
  # gradient, of singular vectors, is so ill-conditioned that any Adam would.
  optimizer = optax.sgd(0.05) if name == 'rsd' else optax.adam(3e-3, eps=1e-3)
  return FAMILIES[family].create(name, model, optimizer)


@pytest.fixture(scope='module')
def init(method, stream):
  """Returns `(seed=0, variables=None) -> state`."""
  return lambda seed=0, variables=None: method.init(
    jax.random.key(seed), variables, stream(0)
  )


class First(NamedTuple):
  """What the first fit on some devices left: five steps from seed 0."""

  state: TrainState
  compilations: int  # of the step
  donated: bool


@pytest.fixture(scope='module')
def first(method, init, stream):
  """The first fits, by number of devices."""

  def fit(devices):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    start = jax.device_put(init(), sharding.replicated(mesh))
    with jax.log_compiles(), unittest.TestCase().assertLogs('jax') as logs:
      state, _ = train.fit(method, start, stream, 5, mesh=mesh)
    compiling = f'Compiling jit({method.step.__name__})'
    compilations = sum(compiling in message for message in logs.output)
    donated = all(leaf.is_deleted() for leaf in jax.tree.leaves(start))
    return First(state, compilations, donated)

  return {devices: fit(devices) for devices in (1, 8)}


@pytest.fixture(scope='module')
def fit(method, first, stream):
  """Returns `(state, steps, ...) -> state, records`: one device, compiled already."""
  mesh = sharding.data_mesh(jax.devices()[:1])
  return lambda state, steps, **options: train.fit(
    method, state, stream, steps, every=1, mesh=mesh, **options
  )


def test_trains_without_a_target_label(init, fit, stream):
  assert 'label' not in stream(0).get('target', {})
  state, losses = init(), []
  for steps in (25, 50, 100, 200):  # few parameters, on a random network, take longest
    state, records = fit(state, steps)
    # The task's own, where there is one: a sum with an adversary's gains goes any way.
    losses += [record.get('task_loss', record['loss']) for record in records]
    if np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5]):
      break
  assert np.all(np.isfinite(losses))
  assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize('devices', [1, 8])
def test_compiles_once_and_donates_its_state(first, devices):
  assert first[devices].compilations == 1
  assert first[devices].donated


def test_a_step_leaves_a_state_of_the_same_types(method, init, stream):
  """So that a loop on the device may carry it."""
  before = jax.eval_shape(lambda: init())
  after, _ = jax.eval_shape(method.step, before, stream(0))
  chex.assert_trees_all_equal(before, after)


def test_the_seed_fixes_every_bit(first, init, fit, raw):
  again, other = (raw(fit(init(seed), 5)[0]) for seed in (0, 1))
  assert raw(first[1].state) == again
  kernels = [name for name in again if name.startswith('params/') and 'kernel' in name]
  assert kernels and all(again[name] != other[name] for name in kernels)


def test_resumes_bit_equal(first, init, fit, raw, tmp_path):
  run = Run.open(tmp_path, {}, resume=False)
  fit(init(), 3, run=run)
  resumed, records = fit(init(), 5, run=run)
  assert raw(resumed) == raw(first[1].state)
  assert [record['step'] for record in records] == list(range(1, 6))
  assert [record['step'] for record in run.records()] == list(range(1, 6))


def test_eight_devices_are_as_one(first):
  states = [
    jax.device_get((state.params, state.model_state)) for state, *_ in first.values()
  ]
  chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-5)


def test_the_pretrained_variables_survive_training(first, init, fit, raw):
  pretrained = first[1].state.variables
  pretrained['params'] = {k: pretrained['params'][k] for k in ('backbone', 'head')}
  before = raw(pretrained)
  state = init(variables=pretrained)
  assert {k: raw(state.variables)[k] for k in before} == before
  fit(state, 2)
  assert raw(pretrained) == before


def test_prediction_is_of_the_images_alone(method, first, stream):
  batch, state = stream(0), first[1].state
  images = batch.get('source', batch)['image']
  logits = method.predict(state, images)
  assert logits.shape == (len(images), 10)
  np.testing.assert_allclose(method.predict(state, images[:3]), logits[:3], rtol=1e-4)
