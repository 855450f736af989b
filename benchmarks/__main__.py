"""Times tljax beside PyTorch and Keras doing the same work.

python -m benchmarks --out benchmarks/cpu.json
python -m benchmarks --cases 'resnet50/*' --peers torch torch.compile
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import time
from concurrent.futures import ProcessPoolExecutor

# The device is PyTorch's, too.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax

from benchmarks import harness, show
from benchmarks.cases import BARS, CASES, SHORT, choose, timed
from benchmarks.steps import Dtype, Settings, usual_dtype
from experiments import cli
from tljax import report
from tljax.errors import InputError

_PEERS = ('torch', 'torch.compile')
# Of a file's facts, those that its cases may differ in.
_OF_A_RUN = ('date', 'commit', 'ceiling', 'cases')


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Times tljax beside PyTorch and Keras: by default the short set of cases."""

  out: pathlib.Path | None = None
  """JSON file; a table .md and a plot .svg beside it."""
  cases: tuple[str, ...] = ()
  """Names or patterns, such as 'vgg16/*'."""
  all: bool = False
  """Every case: an hour and more on two cores."""
  list: bool = False
  """Print their names, and do no more."""
  peers: tuple[str, ...] = ()
  """torch, torch.compile; on a CPU torch alone."""
  seconds: float = 10.0
  """Of each process, beside compilation; at least three rounds."""
  processes: int = 1
  """That time a case, one after the other: a step's speed differs by process."""
  batch_size: int | None = None
  """Else each case's own."""
  dtype: Dtype | None = None
  """What steps compute in: bfloat16 but on a CPU."""
  data: pathlib.Path | None = None
  """Of input/... and founding/photographs, a folder a class; else they are drawn."""


def chosen(flags: Flags) -> list[str]:
  """Names of the cases."""
  return list(CASES) if flags.all else choose(flags.cases or SHORT)


def settings(flags: Flags) -> Settings:
  """What the cases are told.

  Raises:
    InputError: a flag is not of those that there are.
  """
  if unknown := set(flags.peers) - set(_PEERS):
    raise InputError(f'--peers {min(unknown)}: there are {", ".join(_PEERS)}')
  batch_size = 1 if flags.batch_size is None else flags.batch_size
  if min(flags.seconds, flags.processes, batch_size) <= 0:
    raise InputError('--seconds, --processes and --batch-size must be positive')
  if flags.data and not flags.data.is_dir():
    raise InputError(f'--data {flags.data}: there is no such folder')
  default = _PEERS[:1] if jax.default_backend() == 'cpu' else _PEERS
  peers = flags.peers or default
  own = {'batch_size': flags.batch_size, 'data': flags.data}
  return Settings(peers=peers, dtype=flags.dtype or usual_dtype(), **own)


def benchmark(flags: Flags) -> None:
  if flags.list:
    print('\n'.join(f'{n}{", in the short set" * (n in SHORT)}' for n in CASES))
    return
  names, given = chosen(flags), settings(flags)
  about = harness.environment(dtype=given.dtype)
  found = _before(flags.out, about)
  about['ceiling'] = harness.ceiling(given.dtype)
  for number, name in enumerate(names, 1):
    print(f'{number}/{len(names)} {name}', flush=True)
    found[name] = measure(name, given, flags.seconds, flags.processes, about)
    if flags.out:  # after each, for a run may be cut short
      ordered = {name: found[name] for name in CASES if name in found}
      save(flags.out, {**about, 'cases': ordered})
  measured = {name: found[name] for name in names}
  for title, rows in (
    ("Median (quartiles); the ratio is the peer's time over tljax's", show.times),
    ('What a step takes', show.resources),
  ):
    if table := rows(measured):
      report.print_table(table, title)


def measure(
  name: str, settings: Settings, seconds: float, processes: int, about: dict
) -> dict:
  """Returns a case's figures: `harness.summary`, what is reached, and the bar."""
  began = time.perf_counter()
  # A process of its own each, that neither compiled nor freed memory before.
  spawn = multiprocessing.get_context('spawn')
  with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
    tasks = [pool.submit(timed, name, settings, seconds) for _ in range(processes)]
    figures = harness.summary([task.result() for task in tasks])
  for contender in figures['contenders'].values():
    contender |= harness.shares(contender, about['ceiling'])
  bars = BARS['cpu' if jax.default_backend() == 'cpu' else 'gpu']
  bar = bars.get(name) if settings.dtype == usual_dtype() else None
  how = {k: about[k] for k in ('date', 'commit')}
  how |= {'elapsed_seconds': time.perf_counter() - began, 'flags': told(settings)}
  return {**figures, 'bar': bar and bar.judge(figures), **how}


def told(settings: Settings) -> str:
  """The flags that make a case another, as they are written."""
  parts = []
  if settings.batch_size is not None:
    parts.append(f'--batch-size {settings.batch_size}')
  if settings.data is not None:
    parts.append(f'--data {settings.data.name}')
  return ' '.join(parts)


def save(out: pathlib.Path, written: dict) -> None:
  """Writes the figures, their tables and their plot."""
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(written, indent=1) + '\n')
  out.with_suffix('.md').write_text(show.markdown(written))
  show.plot(written['cases']).savefig(out.with_suffix('.svg'))


def _before(out, about):
  """The cases that the file has, which must be of the same machine and versions."""
  if out is None or not out.exists():
    return {}
  try:
    written = json.loads(out.read_text())
    same = {'dtype': usual_dtype()}  # of files from before it was told
    same |= {k: v for k, v in written.items() if k not in _OF_A_RUN}
    cases = dict(written['cases'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'{out} exists and has no figures; choose another --out'
    ) from error
  if same != {k: v for k, v in about.items() if k not in _OF_A_RUN}:
    raise InputError(
      f'{out} is of other versions, cores or dtype; choose another --out'
    )
  return cases


if __name__ == '__main__':
  cli.main(benchmark, Flags)
