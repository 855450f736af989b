"""Six ways to a classifier of digits over photographs, compared in three minutes.

  python -m experiments.quickstart --out runs/quickstart

The source is `digits`, the target `digits-m`, both embedded. All strategies have the
same network, optimiser, steps and augmentation. The unsupervised ones see no target
label, and the test set is looked at once, at the end.
"""

import dataclasses
import pathlib

import optax

from experiments import cli, results, tasks
from tljax import data, models
from tljax.adaptation import adversarial, dann
from tljax.data import augment, batches, digits
from tljax.extraction.features import extract
from tljax.finetuning import labels, plain
from tljax.method import Method
from tljax.train import Plan, compare

SHOTS = 10  # labelled target images per class, for the strategies that have few


@dataclasses.dataclass(kw_only=True)
class Flags(cli.Flags):
  """Compares transfer strategies on the embedded pair digits -> digits-m."""

  out: pathlib.Path = pathlib.Path('runs/quickstart')
  epochs: int = 70
  """Passes over the source set; every strategy takes as many steps."""
  batch_size: int = 64

  def transform(self) -> data.Transform:
    """Of every image."""
    return data.Transform(digits.SIZE)

  def build_model(self, num_classes: int) -> models.Classifier:
    """Returns the network of all strategies."""
    return models.create('cnn', num_classes)

  def methods(self, task: tasks.Task, steps: int) -> dict[str, Method]:
    """By strategy, what is trained."""
    model = self.build_model(task.outputs)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    head_only = labels.freeze(model, optimizer, 'backbone/.*')
    supervised = ('source_only', 'scratch', 'fine_tuning', 'oracle')
    return {
      **dict.fromkeys(supervised, plain.method(model, optimizer)),
      'feature_extraction': plain.method(*head_only),
      'dann': dann.method(model, optimizer, strength=adversarial.ramp(steps)),
    }


def quickstart(flags: Flags) -> None:
  source, target = (data.load(name, flags.transform()) for name in digits.NAMES)
  steps = batches.steps_for(source['train'], flags.epochs, flags.batch_size)
  task = tasks.of(source['train'])
  methods = flags.methods(task, steps)
  plans = {}
  for seed in flags.seed_range():
    few = target['train'].shots(SHOTS, seed)
    on_source, few, on_target = (
      batches.stream(part, flags.batch_size, seed, augment.invert_contrast)
      for part in (source['train'], few, target['train'])
    )
    feeds = {
      'source_only': (on_source,),
      'scratch': (few,),
      'feature_extraction': (few, 'source_only'),
      'fine_tuning': (few, 'source_only'),
      'dann': (batches.pair(on_source, on_target),),
      'oracle': (on_target,),
    }
    plans[seed] = {name: Plan(methods[name], *feed) for name, feed in feeds.items()}
  run = flags.open_run(**task._asdict())
  trials = compare(plans, steps, target, run, **flags.machine.options())

  shown = {'digits': source['test'], 'digits-m': target['test']}
  model, features = flags.build_model(task.outputs), {}
  for name in ('source_only', 'dann'):
    variables = trials[name][0].state.variables
    features[name] = {k: extract(model, variables, s.images) for k, s in shown.items()}
  text = (
    f'Accuracy on the {len(target["test"])} test images of digits-m after {steps} '
    f'steps of {flags.batch_size} images. Few labels: {SHOTS} per class. Unsupervised: '
    'source only and dann. The oracle has all target labels.'
  )
  page = results.conclude(run, trials, target['test'], 'From digits to digits-m', text)
  page.domains(shown, features)
  page.confusion('dann', target['test'], trials['dann'][0].logits.argmax(-1))
  page.save()


if __name__ == '__main__':
  cli.main(quickstart, Flags)
