"""Adapts a network from labelled sources to an unlabelled target.

  python -m experiments.adapt --method dann --source digits --target digits-m \
    --model cnn --augment invert_contrast --epochs 70 --batch-size 64 --out runs/dann

Trains on the sources alone as well, with as many steps, to show what the method adds.
"""

import dataclasses
import functools

import numpy as np

from experiments import cli, results, settings, tasks
from tljax.data import batches
from tljax.data.dataset import Dataset, judging_split
from tljax.finetuning import summary
from tljax.method import Method
from tljax.models import mlp
from tljax.train import Plan, compare


@dataclasses.dataclass(kw_only=True)
class Flags(settings.Flags):
  """Adapts a network from labelled sources to an unlabelled target."""

  source: tuple[str, ...]
  """Labelled domains; a wrong name lists all kinds."""
  target: str
  """Unlabelled; its labels only judge the result."""
  method: str = 'dann'
  """A name, file, sum: cdan:entropy=True+mcc."""
  strength: float | None = None
  """Peak of its ramp; else the method's own."""

  def methods(
    self, task: tasks.Task, steps: int, *sources: Dataset
  ) -> dict[str, Method]:
    """By strategy, what is trained: of rows of features, not images, a small MLP."""
    model = self.build_model(task.outputs)
    if sources and sources[0].images.ndim == 2:
      rows = np.concatenate([source.images for source in sources])
      model = mlp.of_rows(rows, task.outputs)
    model = task.fit(model)
    options = {'task_loss': task.loss, 'domains': len(self.source)}
    names = (*self.baselines, self.method)
    return self.adaptation(names, model, steps, self.strength, **options)


def adapt(flags: Flags) -> None:
  sources = [flags.load_data(spec, rows=True) for spec in flags.source]
  sources, target = flags.match(sources, flags.load_data(flags.target, rows=True))
  sources = [splits['train'] for splits in sources]
  steps = max(
    batches.steps_for(source, flags.epochs, flags.batch_size) for source in sources
  )
  task = tasks.of(*sources)
  methods = flags.methods(task, steps, *sources)
  variables = flags.load_backbone()
  plans = {}
  for seed in flags.seed_range():
    plans[seed] = {}
    for name, method in methods.items():
      stream = flags.batches_for(name, method, sources, target['train'], seed)
      plans[seed][name] = Plan(method, stream, variables)
  # A method may refuse the model: rather now than after training on the source.
  plan = list(plans[flags.seed].values())[-1]
  summary.abstract_state(plan.method, plan.start, plan.batches(0))
  prints = [dataset.fingerprint() for dataset in (*sources, target['train'])]
  run = flags.open_run(fingerprint=prints, **task._asdict())
  # By no label of the target: those of its validation split only draw a curve.
  options = flags.machine.options() | {'best': 'validation_infomax'}
  trials = compare(plans, steps, target, run, **options)
  title = f'From {" and ".join(flags.source)} to {flags.target}'
  text = flags.describe(target, steps)
  scores = functools.partial(flags.scores, target=target)
  judged = judging_split(target)
  results.conclude(run, trials, judged, title, text, scores=scores).save()


if __name__ == '__main__':
  cli.main(adapt, Flags)
