"""How far a long job is: a bar in a terminal, else a line now and then."""

import sys
import time

import jax
from rich import progress
from rich.console import Console


class Bar:
  """Progress on standard error: how many, rate, time left, loss.

  A bar in a terminal; elsewhere a line every ten seconds.
  """

  def __init__(self, name: str, start: int, total: int, unit: str = 'step'):
    self._console = Console(stderr=True)
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TextColumn('{task.fields[text]}'),
      progress.TimeRemainingColumn(),
      console=self._console,
      transient=True,
      disable=not self._console.is_terminal,
    )
    self._task = self._bar.add_task(name, total=total, completed=start, text='')
    self._name, self._start, self._total, self._unit = name, start, total, unit
    self._pause = 0.5 if self._console.is_terminal else 10.0
    self._began = self._drawn = time.perf_counter()
    self.completed = start

  def update(self, completed: int, loss: jax.Array | None = None) -> None:
    """Draws now and then; always waits for the step whose loss this is."""
    jax.block_until_ready(loss)
    self.completed = completed
    now = time.perf_counter()
    if now - self._drawn < self._pause:
      return
    self._drawn = now
    rate = (completed - self._start) / (now - self._began)
    texts = [f'{rate:{".1f" if rate >= 1 else ".2g"}} {self._unit}s/s']
    texts += [] if loss is None else [f'loss {float(loss):.3f}']
    self._bar.update(self._task, completed=completed, text=' '.join(texts))
    if not self._console.is_terminal:
      texts.insert(1, f'{(self._total - completed) / rate:.0f} s left')
      print(
        f'{self._name}: {self._unit} {completed}/{self._total}, {", ".join(texts)}',
        file=sys.stderr,
      )

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()
