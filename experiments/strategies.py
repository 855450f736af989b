"""Compares ways to use a pretrained network, over sets, numbers of labels and seeds.

  python -m experiments.strategies --data folder:hymenoptera folder:photo --few 5 20 0 \
    --strategies probe partial lora --weights squeezenet1_1.safetensors --out runs/some

With --resume it skips what the run has done: ask for more strategies and seeds at will.
"""

import dataclasses
import functools
import itertools
import sys

from experiments import cli, finetune, results, tuning
from tljax.data.dataset import Dataset, judging_split
from tljax.extraction.features import extract_splits
from tljax.finetuning import strategy

Splits = dict[str, Dataset]


@dataclasses.dataclass(kw_only=True)
class Flags(finetune.Flags):
  """Compares ways to use a pretrained network."""

  data: tuple[str, ...]
  """Target sets: folder:PATH, ...; a wrong name lists all kinds."""
  strategies: tuple[str, ...] = ('probe', 'lp_ft', 'partial', 'plain', 'chosen')
  """'probe', logistic regression on frozen features; 'lp_ft', its head, then all is
  tuned; 'partial', the upper half of the stages; 'bitfit', biases alone; methods of
  fine-tuning; 'chosen', what the training examples call for, by their number."""
  few: tuple[int, ...] = (0,)
  """Labelled training images of each class; 0 are all."""
  min_steps: int = 60
  """Steps of a training, however few its examples and --epochs are."""
  weights: str
  """Pretrained weights: a file, or a tag of the zoo."""
  augment: cli.Augment = 'none'
  epochs: int = 3
  learning_rate: float = 1e-3
  backbone_rate: float = 0.1


def strategies(flags: Flags) -> None:
  sets = {spec.rstrip('/').split('/')[-1]: flags.load_data(spec) for spec in flags.data}
  tasks = {f'{k}, {n or "all"}': (k, n) for k in sets for n in flags.few}
  run = flags.open_run(without=('data', 'strategies', 'few', 'seeds'))
  extracted = functools.cache(lambda key: extract(flags, sets[key]))

  def few(of, key, count, seed):
    """Images or features, `of` a set, with so many training examples of a class."""
    splits = of(key)
    return {**splits, 'train': splits['train'].shots(count, seed)} if count else splits

  for (task, (key, count)), name, seed in itertools.product(
    tasks.items(), flags.strategies, flags.seed_range()
  ):
    if run.records(done := f'{task}, {name}-{seed}'):
      continue
    splits = few(sets.get, key, count, seed)
    features = functools.partial(few, extracted, key, count, seed)
    facts = choose(features()['train']) if name == 'chosen' else {'used': name}
    used = facts['used']
    known = run.records(f'{task}, {used}-{seed}')
    judged = known[0] if known else tuning.judge(flags, used, seed, splits, features)
    run.log(done, judged | facts)
    print(f'{done}: {judged["accuracy"]:.3f}', facts.get('reason', ''), file=sys.stderr)
  grid = tasks, flags.strategies, flags.seed_range()
  results.conclude_grid(run, *grid, flags.model).save()


def extract(flags: Flags, splits: Splits) -> Splits:
  """The features of the frozen network, of the splits that train and judge."""
  parts = {'train': splits['train'], 'test': judging_split(splits)}
  return extract_splits(flags.build_model(2), flags.load_backbone(), parts)


def choose(features: Dataset) -> dict[str, str]:
  """Which strategy to use, by the training examples alone, and the reason."""
  evidence = strategy.measure(features.images, features.labels, len(features.classes))
  found = strategy.choose(evidence)
  return {'used': found.name.replace('full', 'plain'), 'reason': found.reason}


if __name__ == '__main__':
  cli.main(strategies, Flags)
