"""Trains a linear head on the features of a frozen network, extracted once.

  python -m experiments.extract --data folder:hymenoptera_data \
    --weights squeezenet1_1.safetensors --out runs/frozen
"""

import dataclasses

from experiments import cli
from tljax.data import batches
from tljax.extraction.features import extract_splits
from tljax.extraction.linear import LinearProbe
from tljax.finetuning import plain
from tljax.train import Plan, compare


@dataclasses.dataclass(kw_only=True)
class Flags(cli.ModelFlags):
  """Trains a linear head on the features of a frozen network."""

  data: str
  """digits, folder:PATH, csv:PATH, ...; a wrong name lists all kinds."""
  weights: str
  """Pretrained weights: a file in a published layout, or a tag of the zoo."""
  epochs: int = 50


def extract(flags: Flags) -> None:
  splits = flags.load_data(flags.data)
  training, classes = splits['train'], len(splits['train'].classes)
  few = flags.few(training)[flags.seed]
  steps = batches.steps_for(few, flags.epochs, flags.batch_size)
  batches.check_batch_size(flags.batch_size, len(few))
  model, variables = flags.build_model(classes), flags.load_backbone()
  method = plain.method(LinearProbe(classes), flags.load_optimizer(steps))
  run = flags.open_run(fingerprint=training.fingerprint())

  features = extract_splits(model, variables, splits)
  plans = {}
  for seed, examples in flags.few(features['train']).items():
    stream = batches.stream(examples, flags.batch_size, seed)
    plans[seed] = {'feature_extraction': Plan(method, stream)}
  trials = compare(plans, steps, features, run)
  cli.conclude(run, trials, flags.data, flags.describe(splits, steps)).save()


if __name__ == '__main__':
  cli.main(extract, Flags)
