"""Trains a linear head on the features of a frozen network, extracted once.

  python -m experiments.extract --data folder:hymenoptera_data \
    --weights squeezenet1_1.safetensors --out runs/frozen
"""

import dataclasses

from experiments import cli
from tljax import train
from tljax.data import batches
from tljax.extraction.features import extract_splits
from tljax.extraction.linear import LinearProbe
from tljax.finetuning import plain


@dataclasses.dataclass(kw_only=True)
class Flags(cli.ModelFlags):
  """Trains a linear head on the features of a frozen network."""

  data: str
  """digits, digits-m, or folder:PATH with a folder of images per class."""
  weights: str
  """File of pretrained weights, in a published layout."""
  epochs: int = 50


def extract(flags: Flags) -> None:
  splits = flags.load_data(flags.data)
  steps = batches.steps_for(splits['train'], flags.epochs, flags.batch_size)
  batches.check_batch_size(flags.batch_size, len(splits['train']))
  classes = len(splits['train'].classes)
  model, variables = flags.load_model(classes)
  method = plain.method(LinearProbe(classes), flags.load_optimizer(steps))
  seeds = flags.seed_range()
  run = flags.open_run(fingerprint=splits['train'].fingerprint())

  features = extract_splits(model, variables, splits)
  trials = [
    train.trial(
      method,
      batches.stream(features['train'], flags.batch_size, seed),
      steps,
      features,
      seed=seed,
      run=run,
      name='feature_extraction',
    )
    for seed in seeds
  ]
  text = flags.describe(splits, steps)
  page = cli.conclude(run, {'feature_extraction': trials}, flags.data, text)
  page.save(run.folder / 'report.html')


if __name__ == '__main__':
  cli.main(extract, Flags)
