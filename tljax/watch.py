"""What is watched while a training runs: progress, where the time goes, a trace."""

import collections
import contextlib
import importlib
import resource
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np

from tljax import processes
from tljax.errors import InputError
from tljax.progress import Bar
from tljax.run import Run

_LONG = 10.0  # seconds of a training from which on its breakdown is printed


class Watch:
  """Progress and time of one training; its scalars and trace, for TensorBoard."""

  def __init__(
    self,
    name: str,
    start: int,
    steps: int,
    run: Run | None = None,
    profile: tuple[int, int] | None = None,
  ):
    """Starts to watch.

    Args:
      name: of the training.
      start: steps that are completed.
      steps: that will be, at the end.
      run: has the scalars in tensorboard/ and the trace in profile/; None has neither.
      profile: first step of the trace, and the one after its last.
    """
    self._name, self._start, self._run = name, start, run
    self._bar = Bar(name, start, steps)
    self._window = profile if run else None
    self._tracing = False
    self._writer = None
    self._began = time.perf_counter()
    self.seconds = collections.defaultdict(float)  # by what they were spent on

  @contextlib.contextmanager
  def spending(self, kind: str) -> Iterator[None]:
    """Counts the time within as spent on `kind`."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self.seconds[kind] += time.perf_counter() - began

  def begins(self, steps: range) -> None:
    """Begins or ends the trace, where it is time; these are about to be taken."""
    if not self._window:
      return
    first, stop = self._window
    if not self._tracing and first < steps.stop and steps.start < stop:
      jax.profiler.start_trace(self._run.folder / 'profile' / self._name)
      self._tracing = True
    elif self._tracing and steps.start >= stop:
      self._end_trace()

  def completed(self, steps: range, losses: jax.Array) -> np.ndarray:
    """Waits for the losses of these steps, draws the progress and returns them."""
    with self.spending('step'):
      losses = np.atleast_1d(losses)
      self._bar.update(steps.stop, losses[-1])
      return losses

  def record(self, record: dict) -> None:
    """Writes a record's numbers for TensorBoard."""
    if not self._run or not processes.is_first():
      return
    if self._writer is None:
      folder = self._run.folder / 'tensorboard' / self._name
      purge = self._start + 1 if self._start else None
      self._writer = _tensorboard().SummaryWriter(str(folder), purge_step=purge)
    for key, value in record.items():
      if key != 'step':
        self._writer.add_scalar(key, value, record['step'])

  def summary(self, steps: int) -> str:
    """Where the time went, and the memory, in a line."""
    total = time.perf_counter() - self._began
    parts = [
      f'{kind} {100 * spent / total:.0f}%' for kind, spent in self.seconds.items()
    ]
    return (
      f'{self._name}: {steps} steps in {total:.1f} s, {steps / total:.1f} steps/s: '
      f'{", ".join(parts)}; at most {_memory()}'
    )

  def _end_trace(self):
    jax.profiler.stop_trace()
    self._window, self._tracing = None, False

  def __enter__(self) -> 'Watch':
    self._bar.__enter__()
    return self

  def __exit__(self, *_) -> None:
    self._bar.__exit__()
    if self._tracing:
      self._end_trace()
    if self._writer is not None:
      self._writer.close()
    if time.perf_counter() - self._began >= _LONG:
      print(self.summary(self._bar.completed - self._start), file=sys.stderr)


def _memory():
  """The most that was in use: of a device where it says, else of this process."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return f'{stats["peak_bytes_in_use"] / 2**20:.0f} MiB of a device'
  unit = 1 if sys.platform == 'darwin' else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  return f'{peak / 2**20:.0f} MiB of the process'


def _tensorboard():
  """Returns tensorboardX. Where torch is installed that would import it, in seconds."""
  unused = 'torch' not in sys.modules
  try:
    if unused:
      sys.modules['torch'] = None
    return importlib.import_module('tensorboardX')
  finally:
    if unused:
      del sys.modules['torch']


@contextlib.contextmanager
def full_memory_explained(name: str) -> Iterator[None]:
  """Turns the error of a device whose memory is full into one that says the mends."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise InputError(
      f"{name}: the device's memory is full; lower --batch-size, compute activations "
      'again by --remat, or share the state by --mesh fsdp=N'
    ) from error
