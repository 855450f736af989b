"""Times two contenders in turn, so that a drift of the machine's speed hits both."""

import datetime
import os
import platform
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from tljax import report
from tljax.method import Batch, Method


def alternate(
  contenders: Mapping[str, Callable[[], None]], rounds: int, steps: int
) -> dict[str, list[float]]:
  """Runs the contenders in turn.

  Args:
    contenders: by name, a function that runs one step, and waits for it.
    rounds: turns of each.
    steps: calls in a turn.

  Returns:
    By name, seconds per step of each round.
  """
  seconds = {name: [] for name in contenders}
  for _ in range(rounds):
    for name, step in contenders.items():
      began = time.perf_counter()
      for _ in range(steps):
        step()
      seconds[name].append((time.perf_counter() - began) / steps)
  return seconds


def stepper(method: Method, batch: Batch) -> Callable[[], None]:
  """Returns a function that runs one jitted, donated step, and waits for it."""
  state = method.init(jax.random.key(0), None, batch)
  step = jax.jit(method.step, donate_argnums=0)

  def run():
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return run


def beside(
  ours: Callable[[], None], peers: Callable[[], None] | None, rounds: int, steps: int
) -> dict:
  """Times our step, compiled at its first call, and the peers' in turn with it.

  Returns:
    'compile_seconds'; the quartiles of 'tljax' and 'torch', seconds; of their 'ratio',
    round by round, which is above 1 where tljax is faster. Without peers None.
  """
  began = time.perf_counter()
  ours()
  figures = {'compile_seconds': time.perf_counter() - began}
  contenders = {'tljax': ours} | ({'torch': peers} if peers else {})
  alternate(contenders, 1, 2)  # warm-up
  seconds = alternate(contenders, rounds, steps)
  ratio = [b / a for a, b in zip(*seconds.values(), strict=True)] if peers else None
  for name, values in {'torch': None, **seconds, 'ratio': ratio}.items():
    figures[name] = quartiles(values) if values else None
  return figures


def quartiles(values: list[float]) -> dict[str, float]:
  """Median and quartiles."""
  low, median, high = np.percentile(values, [25, 50, 75])
  return {'median': float(median), 'low': float(low), 'high': float(high)}


def spread(quartiles: Mapping[str, float] | None, scale: float, digits: int) -> str:
  """Text of median and quartiles, such as '1.50 (1.40-1.60)'; '-' of None."""
  if quartiles is None:
    return '-'
  low, median, high = (scale * quartiles[k] for k in ('low', 'median', 'high'))
  return f'{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})'


def show(cases: list[dict], title: str) -> None:
  """Prints what `beside` gave, a row a case."""
  rows = [
    {
      'step': f['case'],
      'compile s': f'{f["compile_seconds"]:.1f}',
      'tljax ms': spread(f['tljax'], 1e3, 1),
      'torch ms': spread(f['torch'], 1e3, 1),
      'ratio': spread(f['ratio'], 1, 2),
    }
    for f in cases
  ]
  report.print_table(rows, f'{title}: median (quartiles); ratio is torch / tljax')


def environment(**facts) -> dict:
  """What figures depend on beside the code; `facts` join it."""
  return {
    'device': jax.devices()[0].device_kind,
    'processor': platform.processor() or platform.machine(),
    'threads': os.cpu_count(),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'date': datetime.date.today().isoformat(),
    **facts,
  }
