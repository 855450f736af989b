"""Six ways to a classifier of digits over photographs, compared in three minutes.

  python -m experiments.quickstart --out runs/quickstart

The source is `digits`, the target `digits-m`, both embedded. All strategies have the
same network, optimiser, steps and augmentation. The unsupervised ones see no target
label, and the test set is looked at once, at the end.
"""

import collections
import dataclasses
import functools
import pathlib

import optax

from experiments import cli
from tljax import data, models, report, train
from tljax.adaptation import adversarial, dann
from tljax.data import augment, batches
from tljax.extraction.features import extract
from tljax.finetuning import labels, plain

SHOTS = 10  # labelled target images per class, for the strategies that have few


@dataclasses.dataclass(kw_only=True)
class Flags(cli.Flags):
  """Compares transfer strategies on the embedded pair digits -> digits-m."""

  out: pathlib.Path = pathlib.Path('runs/quickstart')
  epochs: int = 70
  """Passes over the source set; every strategy takes as many steps."""
  batch_size: int = 64


def quickstart(flags: Flags) -> None:
  source, target = data.load('digits', 16), data.load('digits-m', 16)
  steps = batches.steps_for(source['train'], flags.epochs, flags.batch_size)
  batches.check_batch_size(flags.batch_size, SHOTS * len(target['train'].classes))
  run = flags.open_run()

  model = models.create('cnn', num_classes=10)
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
  supervised = plain.method(model, optimizer)
  head_only = plain.method(*labels.freeze(model, optimizer, 'backbone/.*'))
  adapted = dann.method(model, optimizer, strength=adversarial.ramp(steps))

  def plans(seed):
    """By strategy: its method, its batches, and the strategy that it starts from."""
    stream = functools.partial(
      batches.stream,
      batch_size=flags.batch_size,
      seed=seed,
      augment=augment.invert_contrast,
    )
    on_source, on_target = stream(source['train']), stream(target['train'])
    few = stream(target['train'].shots(SHOTS, seed))
    return {
      'source_only': (supervised, on_source, None),
      'scratch': (supervised, few, None),
      'feature_extraction': (head_only, few, 'source_only'),
      'fine_tuning': (supervised, few, 'source_only'),
      'dann': (adapted, batches.pair(on_source, on_target), None),
      'oracle': (supervised, on_target, None),
    }

  trials = collections.defaultdict(list)
  for seed in flags.seed_range():
    pretrained = {None: None}
    for name, (method, stream, start) in plans(seed).items():
      trial = train.trial(
        method,
        stream,
        steps,
        target,
        seed=seed,
        variables=pretrained[start],
        run=run,
        name=name,
      )
      trials[name].append(trial)
      pretrained[name] = trial.state.variables

  page = cli.conclude(
    run,
    trials,
    'From digits to digits-m',
    f'Accuracy on the {len(target["test"])} test images of digits-m after {steps} '
    f'steps of {flags.batch_size} images. Few labels: {SHOTS} per class. Unsupervised: '
    'source_only and dann. The oracle has all target labels.',
  )
  shown = {'digits': source['test'], 'digits-m': target['test']}
  page.figure(
    'The two domains',
    report.image_rows({name: split.images[:12] for name, split in shown.items()}),
  )
  page.figure(
    'Features before and after adaptation',
    report.tsne(
      {
        title: {
          name: extract(model, trials[title][0].state.variables, split.images)
          for name, split in shown.items()
        }
        for title in ('source_only', 'dann')
      },
      {name: split.labels for name, split in shown.items()},
      target['test'].classes,
    ),
    't-SNE of the test images of both domains, first seed. Labels only colour it.',
  )
  page.figure(
    'Confusion of DANN on digits-m',
    report.confusion(
      target['test'].labels, trials['dann'][0].logits.argmax(-1), target['test'].classes
    ),
    'Test set, first seed.',
  )
  page.save(run.folder / 'report.html')


if __name__ == '__main__':
  cli.main(quickstart, Flags)
