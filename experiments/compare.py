"""Compares methods of domain adaptation over pairs of domains and seeds.

  python -m experiments.compare --domains folder:photo folder:cartoon \
    --methods dann cdan+mcc --weights squeezenet1_1.safetensors --frozen --out runs/grid

With --resume it skips what the run has done: ask for more methods and seeds at will.
A method that diverges is left out of the table, which is said at the end.
"""

import dataclasses
import itertools
import pathlib
import sys

from experiments import cli, grid, settings
from tljax.data import batches
from tljax.errors import Diverged, InputError
from tljax.finetuning import summary
from tljax.models import Linear
from tljax.models.bottleneck import OnFeatures


@dataclasses.dataclass(kw_only=True)
class Flags(settings.Flags):
  """Compares methods of domain adaptation over pairs of domains and seeds."""

  domains: tuple[str, ...]
  """Sets of the same classes; every ordered pair is a task."""
  targets: tuple[str, ...] = ()
  """The only --domains to adapt to, by name; by default each."""
  several: bool = False
  """Of a task the sources are all other sets, and each set is a target once."""
  methods: tuple[str, ...]
  """As --method of adapt, beside the baselines and the oracle."""
  frozen: bool = False
  """Adapt a small network on the features of the frozen one, in seconds a run."""
  cache: pathlib.Path | None = None
  """Folder that keeps the features of --frozen for other runs, by content."""
  transductive: bool = False
  """Learn on all of the source, adapt to all of the target and judge on it."""
  seeds: int = 5
  epochs: int = 10
  """Passes over the first task's source; all tasks have as many steps."""


def compare(flags: Flags) -> None:
  backbone = flags.load_backbone()
  tasks, prints = grid.tasks(flags, backbone)
  training = {
    task: ([source['train'] for source in sources], target['train'])
    for task, (sources, target) in tasks.items()
  }
  [first, *others], _ = next(iter(training.values()))
  steps = batches.steps_for(first, flags.epochs, flags.batch_size)
  start, model = backbone, flags.build_model(len(first.classes))
  if first.images.ndim == 2:
    start, model = None, OnFeatures(Linear(len(first.classes)))
  names = flags.baselines + (() if flags.transductive else ('oracle',)) + flags.methods
  methods = flags.adaptation(names, model, steps, domains=1 + len(others))
  # What a method refuses, rather now than after others were trained.
  for k, one in methods.items():
    streams = [flags.batches_for(k, one, *on, flags.seed) for on in training.values()]
    summary.abstract_state(one, start, streams[0](0))
  run = flags.open_run(without=('domains', 'targets', 'methods', 'seeds'))
  grid.check_data(run, prints)
  diverged = {}  # which is no reason to lose the others
  for (task, (sources, target)), name in itertools.product(tasks.items(), methods):
    if name in diverged:
      continue
    done = {seed: f'{task}, {name}-{seed}' for seed in flags.seed_range()}
    own = flags.build_for(name, model)
    streams = {
      seed: flags.batches_for(name, methods[name], *training[task], seed)
      for seed in done
      if not run.records(done[seed])
    }
    options = {'name': f'{task}, {name}', **flags.machine.options()}
    trials = grid.train(methods[name], streams, steps, target, start, **options)
    try:
      for seed, one in trials:
        facts, features = grid.judge(
          methods[name], own, one, sources, target, not flags.transductive
        )
        if task == next(iter(tasks)) and seed == flags.seed:
          grid.keep(run.folder / 'features' / task, name, features)
        facts |= {'seconds': one.seconds, **flags.scores(one, target)}
        run.log(done[seed], {'accuracy': one.accuracy, 'data': prints[task]} | facts)
        print(f'{done[seed]}: {one.accuracy:.3f}', file=sys.stderr)
    except Diverged as error:
      diverged[name] = str(error)
      print(error, file=sys.stderr)
  rest = [name for name in methods if name not in diverged]
  grid.conclude(run, tasks, rest, flags.seed_range())
  if diverged:
    raise InputError(f'without what diverged: {"; ".join(diverged.values())}')


if __name__ == '__main__':
  cli.main(compare, Flags)
