"""Flags of where a run is carried out: not of its result, and refused early."""

import jax
import numpy as np
import pytest

from experiments import cli, finetune
from experiments.machine import Machine
from tljax.errors import InputError


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


def test_nans_are_looked_for_only_where_that_is_asked():
  before = jax.config.jax_debug_nans
  try:
    with Machine().at_work():
      assert jax.config.jax_debug_nans == before
    with Machine(debug_nans=True).at_work():
      assert jax.config.jax_debug_nans
  finally:
    jax.config.update('jax_debug_nans', before)
