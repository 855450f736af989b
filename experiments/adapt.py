"""Adapts a network from a labelled source to an unlabelled target.

  python -m experiments.adapt --method dann --source digits --target digits-m \
    --model cnn --augment invert_contrast --epochs 70 --batch-size 64 --out runs/dann

Trains on the source alone as well, with as many steps, to show what the method adds.
"""

import dataclasses

from experiments import cli
from tljax import adaptation, train
from tljax.adaptation import adversarial
from tljax.data import batches, dataset
from tljax.finetuning import plain


@dataclasses.dataclass(kw_only=True)
class Flags(cli.ModelFlags):
  """Adapts a network from a labelled source to an unlabelled target."""

  source: str
  """Labelled domain: digits, digits-m, or folder:PATH."""
  target: str
  """Unlabelled domain, of the same classes. Its labels only judge the result."""
  method: str = 'dann'
  """Adaptation method; a wrong name lists them all."""
  strength: float = 1.0
  """Peak of the method's strength; it ramps up over the run."""
  augment: cli.Augment = 'none'
  """Random change of the training images of both domains."""


def adapt(flags: Flags) -> None:
  source, target = flags.load_data(flags.source), flags.load_data(flags.target)
  dataset.check_same_classes(source['train'], target['train'])
  steps = batches.steps_for(source['train'], flags.epochs, flags.batch_size)
  model, variables = flags.load_model(len(source['train'].classes))
  optimizer = flags.load_optimizer(steps)
  strength = adversarial.ramp(steps, peak=flags.strength)
  methods = {
    'source_only': plain.method(model, optimizer),
    flags.method: adaptation.create(flags.method, model, optimizer, strength=strength),
  }

  augment = cli.AUGMENTS[flags.augment]

  def stream(name, seed):
    on_source, on_target = (
      batches.stream(domain['train'], flags.batch_size, seed, augment)
      for domain in (source, target)
    )
    return on_source if name == 'source_only' else batches.pair(on_source, on_target)

  streams = {(n, seed): stream(n, seed) for seed in flags.seed_range() for n in methods}
  run = flags.open_run(
    fingerprint=[source['train'].fingerprint(), target['train'].fingerprint()]
  )

  trials = {name: [] for name in methods}
  for (name, seed), stream in streams.items():
    trials[name].append(
      train.trial(
        methods[name],
        stream,
        steps,
        target,
        seed=seed,
        variables=variables,
        run=run,
        name=name,
      )
    )
  title = f'From {flags.source} to {flags.target}'
  page = cli.conclude(run, trials, title, flags.describe(target, steps))
  page.save(run.folder / 'report.html')


if __name__ == '__main__':
  cli.main(adapt, Flags)
