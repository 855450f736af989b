"""Flags of where a run is carried out: not of its result, and refused early."""

import jax
import pytest

from experiments import cli
from experiments.machine import Machine
from tljax.errors import InputError


@pytest.mark.parametrize('profile', ['10', '10:5', '5:5', '-1:3', 'a:b'])
def test_a_window_that_is_none(profile):
  with pytest.raises(InputError, match='--profile .*FIRST:STOP'):
    Machine(profile=profile).options()


def test_options_are_those_of_fit():
  assert Machine().options() == {'mesh': None, 'profile': None}
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


def test_nans_are_looked_for_only_where_that_is_asked():
  before = jax.config.jax_debug_nans
  try:
    with Machine().at_work():
      assert jax.config.jax_debug_nans == before
    with Machine(debug_nans=True).at_work():
      assert jax.config.jax_debug_nans
  finally:
    jax.config.update('jax_debug_nans', before)
