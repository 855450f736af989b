"""Times two contenders in turn, so that a drift of the machine's speed hits both."""

import datetime
import os
import platform
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


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
