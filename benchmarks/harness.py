"""Times contenders in turn, so that a drift of the machine's speed hits all alike."""

import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax.finetuning.summary import abstract_state, compiled_step, step_memory
from tljax.method import Batch, Method, path_name

_TURN = 0.3  # seconds of the quickest contender's turn: the clock and a hiccup drown
_ROUNDS = 3, 25  # at least, at most
_SETTINGS = 'XLA_FLAGS', 'GLIBC_TUNABLES'
_PACKAGES = ('jax', 'flax', 'torch', 'torchvision', 'timm', 'keras')


class Contender(NamedTuple):
  """What is timed.

  Attributes:
    run: one step; a device may go on with it afterwards, as it does in a training.
    facts: of the step, where they are known: 'compile_seconds', 'memory_bytes' at the
      peak, 'flops' and 'bytes' that are read and written.
    wait: until what was run is done.
  """

  run: Callable[[], object]
  facts: Mapping[str, float] = {}
  wait: Callable[[], object] = lambda: None


# By name, the first being tljax's; a text in the place of one says why it is missing.
Contenders = Mapping[str, Contender | str]


class Bar(NamedTuple):
  """What must hold.

  Attributes:
    value: the least of the peer's time over tljax's; of a cost, the most of tljax's
      over the peer's; without a peer, seconds at most.
    peer: a contender's name.
    is_cost: whether tljax does more than the peer.
  """

  value: float
  peer: str | None = 'torch'
  is_cost: bool = False

  def judge(self, figures: Mapping) -> dict | None:
    """Returns the figure in question and whether it passes; None without the peer.

    Args:
      figures: of `summary`.
    """
    if self.peer is None:
      found = next(iter(figures['contenders'].values()))['median']
    elif self.peer in figures['ratios']:
      found = figures['ratios'][self.peer]['median']
      found = 1 / found if self.is_cost else found
    else:
      return None
    at_most = self.is_cost or self.peer is None
    passes = found <= self.value if at_most else found >= self.value
    return {**self._asdict(), 'found': found, 'passes': bool(passes)}


def alternate(
  contenders: Mapping[str, Contender], rounds: int, steps: int, warm: bool = True
) -> dict[str, list[float]]:
  """Runs the contenders in turn.

  Args:
    contenders: by name.
    rounds: turns of each.
    steps: calls in a turn, at whose end is waited.
    warm: a turn begins with a call that is not timed. What memory a contender freed
      while the others had their turn, a virtual machine may have given back to its
      host, and takes a second to have again; a training never waits for that.

  Returns:
    By name, seconds per step of each round.
  """
  seconds = {name: [] for name in contenders}
  for _ in range(rounds):
    for name, contender in contenders.items():
      if warm:
        contender.run()
        contender.wait()
      began = time.perf_counter()
      for _ in range(steps):
        contender.run()
      contender.wait()
      seconds[name].append((time.perf_counter() - began) / steps)
  return seconds


def plan(once: Mapping[str, float], seconds: float) -> tuple[int, int]:
  """Returns the rounds, and the steps of a turn, that fit in `seconds`.

  Args:
    once: by contender, seconds of a step.
    seconds: for all of them; slow ones take more, for three rounds.
  """
  steps = max(1, math.ceil(_TURN / min(once.values())))
  rounds = int(seconds / ((1 + steps) * sum(once.values())))
  return min(max(rounds, _ROUNDS[0]), _ROUNDS[1]), steps


class Rounds(NamedTuple):
  """What a process has timed.

  Attributes:
    seconds: by contender, of a step in each round; the first contender is tljax.
    steps: in a round.
    facts: by contender, see there.
    missing: by name, why.
  """

  seconds: Mapping[str, list[float]]
  steps: int
  facts: Mapping[str, Mapping[str, float]]
  missing: Mapping[str, str]


def take_turns(contenders: Contenders, seconds: float, once: bool = False) -> Rounds:
  """Times the contenders, once with no warm-up, or for about so many seconds."""
  missing = {k: v for k, v in contenders.items() if isinstance(v, str)}
  contenders = {k: v for k, v in contenders.items() if k not in missing}
  rounds, steps = 1, 1
  if not once:
    found = alternate(contenders, 1, 1)
    rounds, steps = plan({name: s for name, (s,) in found.items()}, seconds)
  timed = alternate(contenders, rounds, steps, warm=not once)
  facts = {name: dict(contender.facts) for name, contender in contenders.items()}
  return Rounds(timed, steps, facts, missing)


def summary(processes: Sequence[Rounds]) -> dict:
  """Returns the figures of a case.

  Args:
    processes: of the same contenders, each process' own.

  Returns:
    'contenders': by name, the first process' facts and quartiles of the seconds of a
    step; 'ratios': by peer, of its time over tljax's, round by round, above 1 where
    tljax is quicker, and each process' median in 'processes'; 'missing': by name, why.
  """
  first = processes[0]
  ours, *peers = first.seconds
  ratios = {
    peer: [np.divide(p.seconds[peer], p.seconds[ours]) for p in processes]
    for peer in peers
  }
  return {
    'rounds': sum(len(p.seconds[ours]) for p in processes),
    'steps': first.steps,
    'contenders': {
      name: {**facts, **quartiles(np.concatenate([p.seconds[name] for p in processes]))}
      for name, facts in first.facts.items()
    },
    'ratios': {
      peer: {
        **quartiles(np.concatenate(found)),
        'processes': [float(np.median(of_one)) for of_one in found],
      }
      for peer, found in ratios.items()
    },
    'missing': first.missing,
  }


def compiled(step: jax.stages.Compiled, seconds: float) -> dict[str, float]:
  """Returns the facts of a compiled step that took `seconds` to compile."""
  cost = step.cost_analysis() or {}
  return {
    'compile_seconds': seconds,
    'memory_bytes': sum(step_memory(step).values()),
    'flops': cost.get('flops', 0.0),
    'bytes': cost.get('bytes accessed', 0.0),
  }


def stepper(method: Method, batch: Batch) -> Contender:
  """Returns the method's jitted, donated step, as `train.fit` runs it."""
  state = filled(abstract_state(method, None, batch))
  began = time.perf_counter()
  step = compiled_step(method, state, batch)
  seconds = time.perf_counter() - began

  def run():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  return Contender(run, compiled(step, seconds), lambda: jax.block_until_ready(state))


def filled(shapes):
  """Returns arrays of the shapes, drawn on the host: XLA compiles draws for seconds.

  Kernels keep their inputs' size; scales and variances are 1; all else is 0, and
  LoRA's B, as it is at the start.
  """
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    name = path_name(path)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if leaf.ndim > 1 and not name.startswith('opt_state') and not name.endswith('/b'):
      uniform = rng.random(leaf.shape, np.float32) - 0.5
      return jnp.asarray(uniform * (12 / math.prod(leaf.shape[:-1])) ** 0.5, leaf.dtype)
    one = name.endswith(('/scale', '/var')) and not name.startswith('opt_state')
    return jnp.full(leaf.shape, one, leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def best_rate(run: Callable[[], object], amount: float, seconds: float = 1.0) -> float:
  """Returns the most of `amount` a second that calls within `seconds` reached."""
  run()
  best, ends = math.inf, time.perf_counter() + seconds
  while (began := time.perf_counter()) < ends:
    run()
    best = min(best, time.perf_counter() - began)
  return amount / best


def ceiling(dtype: str = 'float32', size: int | None = None) -> dict[str, float]:
  """Measures what this device reaches: FLOP/s of a large product, bytes/s of a copy.

  Args:
    dtype: of the product, as of the steps.
    size: rows and columns of the product; the copy has 16 times as many numbers.
  """
  size = size or (2048 if jax.default_backend() == 'cpu' else 8192)
  square = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  # In place, for new pages of a CPU's memory are dearer than the copy.
  bump = jax.jit(lambda x: x + 1, donate_argnums=0)
  array = jnp.zeros((16, size, size))

  def copy():
    nonlocal array
    array = jax.block_until_ready(bump(array))

  def multiply():
    jax.block_until_ready(product(square, square))

  return {
    'flops_per_second': best_rate(multiply, 2 * size**3),
    'bytes_per_second': best_rate(copy, 2 * array.nbytes),
  }


def shares(figures: Mapping[str, float], ceiling: Mapping[str, float]) -> dict:
  """Returns what a step reaches of the ceiling: 'of_flops', and 'of_bytes'.

  XLA counts the bytes of every operation, so that `of_bytes` can be above 1 where a
  cache holds what the next one reads.

  Args:
    figures: a contender's, of `summary`.
    ceiling: see there.
  """
  return {
    f'of_{kind}': figures[kind] / figures['median'] / ceiling[f'{kind}_per_second']
    for kind in ('flops', 'bytes')
    if figures.get(kind)
  }


def quartiles(values: Sequence[float]) -> dict[str, float]:
  """Median and quartiles."""
  low, median, high = np.percentile(values, [25, 50, 75])
  return {'median': float(median), 'low': float(low), 'high': float(high)}


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


def environment(**facts) -> dict:
  """What figures depend on; `facts` join it."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return {
    'device': jax.devices()[0].device_kind,
    'processor': platform.processor() or platform.machine(),
    'cores': cores(),
    **found,
    **{name.lower(): os.environ[name] for name in _SETTINGS if os.environ.get(name)},
    'date': datetime.date.today().isoformat(),
    'commit': _commit(),
    **facts,
  }


def _commit():
  """That of the checkout; None outside of one."""
  command = 'git', '-C', str(pathlib.Path(__file__).parent), 'rev-parse', '--short'
  try:
    found = subprocess.run((*command, 'HEAD'), capture_output=True, text=True)
  except OSError:
    return None
  return found.stdout.strip() or None
