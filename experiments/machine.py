"""Flags of where a run is carried out, and what is watched; not of its result."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Annotated

import jax
import tyro

from tljax import processes, sharding
from tljax.errors import InputError
from tljax.weights import registry


@dataclasses.dataclass(kw_only=True)
class Machine:
  """Where the run is carried out."""

  mesh: str | None = None
  """data=8, or data=4,fsdp=2; else data=all."""
  coordinator: Annotated[str | None, tyro.conf.arg(metavar='HOST:PORT')] = None
  """Of process 0, if no cluster."""
  processes: int | None = None
  """How many there are, likewise."""
  process_id: int | None = None
  """Of this one, from 0."""
  profile: str | None = None
  """FIRST:STOP, the steps of a trace in --out."""
  per_call: int = 1
  """Steps in a call of a GPU or TPU."""
  debug_nans: bool = False
  """Stop in the operation that makes a NaN."""

  @contextlib.contextmanager
  def at_work(self) -> Iterator[None]:
    """Joins the other processes, of which the first alone prints."""
    self._window()  # complains now rather than after the data
    if self.per_call < 1:
      raise InputError(f'--per-call is {self.per_call}; choose 1 or more')
    processes.start(self.coordinator, self.processes, self.process_id)
    if self.debug_nans:
      jax.config.update('jax_debug_nans', True)
    if not jax.config.jax_compilation_cache_dir:
      jax.config.update('jax_compilation_cache_dir', str(registry.cache() / 'compiled'))
    with contextlib.ExitStack() as stack:
      if not processes.is_first():
        nowhere = stack.enter_context(open(os.devnull, 'w'))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
      stack.enter_context(processes.preemptible())
      yield

  def options(self) -> dict:
    """What `train.fit` takes of it."""
    mesh = self.mesh and sharding.parse_mesh(self.mesh)
    return {'mesh': mesh, 'profile': self._window(), 'steps_per_call': self.per_call}

  def _window(self):
    if self.profile is None:
      return None
    try:
      first, stop = map(int, self.profile.split(':'))
    except ValueError:
      first = stop = 0
    if not 0 <= first < stop:
      raise InputError(f'--profile {self.profile}: write FIRST:STOP, such as 10:20')
    return first, stop
