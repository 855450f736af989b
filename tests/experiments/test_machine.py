"""Flags of where a run is carried out: not of its result, and refused early."""

import jax
import numpy as np
import pytest
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache

from experiments import cli, finetune
from experiments.machine import Machine
from tljax.errors import InputError
from tljax.weights import registry


@pytest.mark.parametrize('profile', ['10', '10:5', '5:5', '-1:3', 'a:b'])
def test_a_window_that_is_none(profile):
  with pytest.raises(InputError, match='--profile .*FIRST:STOP'):
    Machine(profile=profile).options()


def test_options_are_those_of_fit():
  assert Machine().options() == {'mesh': None, 'profile': None, 'steps_per_call': 1}
  options = Machine(mesh='data=4,fsdp=2', profile='10:20').options()
  assert options['profile'] == (10, 20)
  assert dict(options['mesh'].shape) == {'data': 4, 'fsdp': 2}


def test_a_run_goes_on_elsewhere(tmp_path):
  flags = [
    cli.Flags(out=tmp_path, resume=True, machine=Machine(mesh=mesh))
    for mesh in ('data=8', 'fsdp=8')
  ]
  for one in flags:
    one.open_run()


def test_activations_are_computed_again_where_that_is_asked(tmp_path):
  """In a run that the memory was too small for, gone on with by --resume."""
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  for remat in (False, True):
    common = {'model': 'cifar_resnet20', 'out': tmp_path, 'resume': True}
    flags = finetune.Flags(data='digits', remat=remat, **common)
    model = flags.build_model(2)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    program = jax.make_jaxpr(model.apply)(variables, images)
    assert (' remat' in str(program) or ' checkpoint[' in str(program)) == remat
    flags.open_run()


@pytest.fixture
def no_compile_cache():
  """The tests' own is put back; JAX opens one once, so it closes it in between."""
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_persistent_cache_min_entry_size_bytes',
  )
  before = {name: getattr(jax.config, name) for name in names}
  compilation_cache.reset_cache()
  for name, value in zip(names, (None, 0.0, -1), strict=True):
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def test_what_was_compiled_is_kept(no_compile_cache, tmp_path, monkeypatch):
  """For the next run, which reads it."""
  monkeypatch.setattr(registry, 'cache', lambda: tmp_path)
  hits = []

  def listener(event, **_):
    hits.extend([event] * event.endswith('cache_hits'))

  monitoring.register_event_listener(listener)
  try:
    with Machine().at_work():
      assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'compiled')
      for wanted in (0, 1):
        assert float(jax.jit(lambda x: 3 * x + 41)(1)) == 44
        assert len(hits) == wanted
        assert any((tmp_path / 'compiled').iterdir())
  finally:
    monitoring.unregister_event_listener(listener)


def test_a_compile_cache_of_ones_own_stays(no_compile_cache, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  with Machine().at_work():
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_nans_are_looked_for_only_where_that_is_asked():
  before = jax.config.jax_debug_nans
  try:
    with Machine().at_work():
      assert jax.config.jax_debug_nans == before
    with Machine(debug_nans=True).at_work():
      assert jax.config.jax_debug_nans
  finally:
    jax.config.update('jax_debug_nans', before)
