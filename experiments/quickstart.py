"""Six ways to a classifier of digits over photographs, compared in three minutes.

  python -m experiments.quickstart --out runs/quickstart

The source is `digits`, the target `digits-m`, both embedded. All strategies have the
same network, optimiser, steps and augmentation. The unsupervised ones see no target
label, and the test set is looked at once, at the end.
"""

import dataclasses
import pathlib

import optax

from experiments import cli
from tljax import data, models
from tljax.adaptation import adversarial, dann
from tljax.data import augment, batches, digits
from tljax.extraction.features import extract
from tljax.finetuning import labels, plain
from tljax.train import Plan, compare

SHOTS = 10  # labelled target images per class, for the strategies that have few


@dataclasses.dataclass(kw_only=True)
class Flags(cli.Flags):
  """Compares transfer strategies on the embedded pair digits -> digits-m."""

  out: pathlib.Path = pathlib.Path('runs/quickstart')
  epochs: int = 70
  """Passes over the source set; every strategy takes as many steps."""
  batch_size: int = 64


def quickstart(flags: Flags) -> None:
  source, target = (data.load(name, data.Transform(16)) for name in digits.NAMES)
  steps = batches.steps_for(source['train'], flags.epochs, flags.batch_size)

  model = models.create('cnn', num_classes=10)
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
  supervised = plain.method(model, optimizer)
  head_only = plain.method(*labels.freeze(model, optimizer, 'backbone/.*'))
  adapted = dann.method(model, optimizer, strength=adversarial.ramp(steps))

  plans = {}
  for seed in flags.seed_range():
    on_source, few, on_target = (
      batches.stream(part, flags.batch_size, seed, augment.invert_contrast)
      for part in (
        source['train'],
        target['train'].shots(SHOTS, seed),
        target['train'],
      )
    )
    plans[seed] = {
      'source_only': Plan(supervised, on_source),
      'scratch': Plan(supervised, few),
      'feature_extraction': Plan(head_only, few, 'source_only'),
      'fine_tuning': Plan(supervised, few, 'source_only'),
      'dann': Plan(adapted, batches.pair(on_source, on_target)),
      'oracle': Plan(supervised, on_target),
    }
  run = flags.open_run()
  trials = compare(plans, steps, target, run)

  shown = {'digits': source['test'], 'digits-m': target['test']}
  features = {
    name: {
      domain: extract(model, trials[name][0].state.variables, split.images)
      for domain, split in shown.items()
    }
    for name in ('source_only', 'dann')
  }
  text = (
    f'Accuracy on the {len(target["test"])} test images of digits-m after {steps} '
    f'steps of {flags.batch_size} images. Few labels: {SHOTS} per class. Unsupervised: '
    'source only and dann. The oracle has all target labels.'
  )
  page = cli.conclude(run, trials, 'From digits to digits-m', text)
  page.domains(shown, features)
  page.confusion('dann', target['test'], trials['dann'][0].logits.argmax(-1))
  page.save()


if __name__ == '__main__':
  cli.main(quickstart, Flags)
