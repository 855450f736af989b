"""Compares ways to use a pretrained network, over sets, numbers of labels and seeds.

  python -m experiments.strategies --data folder:hymenoptera folder:photo --few 5 20 0 \
    --strategies probe partial lora --weights squeezenet1_1.safetensors --out runs/some

With --resume it skips what the run has done: ask for more strategies and seeds at will.
"""

import dataclasses
import itertools
import sys
import time

import numpy as np

from experiments import cli, finetune
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.extraction import logistic
from tljax.extraction.features import extract_splits
from tljax.finetuning import labels, summary
from tljax.measures import scores
from tljax.train import trial


@dataclasses.dataclass(kw_only=True)
class Flags(finetune.Flags):
  """Compares ways to use a pretrained network."""

  data: tuple[str, ...]
  """Target sets: folder:PATH, ...; a wrong name lists all kinds."""
  strategies: tuple[str, ...] = ('probe', 'partial', 'plain')
  """'probe', logistic regression on frozen features; 'partial', all but the lower half
  of the stages; or methods of fine-tuning."""
  few: tuple[int, ...] = (0,)
  """Labelled training images of each class; 0 are all."""
  min_steps: int = 100
  """Steps of a training, however few its examples and --epochs are."""
  weights: str
  """Pretrained weights: a file, or a tag of the zoo."""
  augment: cli.Augment = 'none'
  seeds: int = 5


def strategies(flags: Flags) -> None:
  sets = {spec.rstrip('/').split('/')[-1]: flags.load_data(spec) for spec in flags.data}
  tasks = {f'{k}, {n or "all"}': (k, n) for k in sets for n in flags.few}
  run = flags.open_run(without=('data', 'strategies', 'few', 'seeds'))
  for task, name, seed in itertools.product(
    tasks, flags.strategies, flags.seed_range()
  ):
    if run.records(done := f'{task}, {name}-{seed}'):
      continue
    key, count = tasks[task]
    training = sets[key]['train']
    training = training.shots(count, seed) if count else training
    judged = judge(flags, name, {**sets[key], 'train': training}, seed)
    run.log(done, judged)
    print(f'{done}: {judged["accuracy"]:.3f}', file=sys.stderr)
  cli.conclude_grid(run, tasks, flags.strategies, flags.seed_range(), flags.model)


def judge(flags: Flags, name: str, splits: dict[str, Dataset], seed: int) -> dict:
  """Returns the accuracy, the seconds, and how many parameters were trained."""
  training, count = splits['train'], len(splits['train'].classes)
  size = min(flags.batch_size, len(training))
  steps = max(flags.min_steps, batches.steps_for(training, flags.epochs, size))
  if name == 'probe':
    return probe(flags, splits, count)
  backbone = flags.load_backbone()
  one = dataclasses.replace(flags, batch_size=size, method=name)
  if name == 'partial':
    spec = flags.build_model(count).spec
    half = labels.up_to(spec, spec.stages[len(spec.stages) // 2])
    one = dataclasses.replace(one, method='plain', freeze=(half,))
  (method,) = one.methods(count, steps, training, splits['validation']).values()
  stream = one.stream(training, seed)
  state = summary.abstract_state(method, backbone, stream(0))
  ended = trial(method, stream, steps, splits, seed=seed, variables=backbone, name=name)
  moved = summary.groups(state, one.optimizer(steps, flags.build_model(count).spec))
  trained = sum(group.trained for group in moved.values())
  return {'accuracy': ended.accuracy, 'seconds': ended.seconds, 'trained': trained}


def probe(flags: Flags, splits: dict[str, Dataset], count: int) -> dict:
  """As `judge`, of logistic regression on the features of the frozen network."""
  began = time.perf_counter()
  judged = splits.get('test', splits['validation'])
  parts = {'train': splits['train'], 'judged': judged}
  features = extract_splits(flags.build_model(count), flags.load_backbone(), parts)
  head = logistic.fit(features['train'].images, splits['train'].labels, count)
  accuracy = scores.accuracy(head.logits(features['judged'].images), judged.labels)
  trained = int(np.prod(features['train'].images.shape[1:]) + 1) * count
  seconds = round(time.perf_counter() - began, 3)
  return {'accuracy': accuracy, 'seconds': seconds, 'trained': trained}


if __name__ == '__main__':
  cli.main(strategies, Flags)
