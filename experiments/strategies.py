"""Compares ways to use a pretrained network, over sets, numbers of labels and seeds.

  python -m experiments.strategies --data folder:hymenoptera folder:photo --few 5 20 0 \
    --strategies probe partial lora --weights squeezenet1_1.safetensors --out runs/some

With --resume it skips what the run has done: ask for more strategies and seeds at will.
"""

import dataclasses
import functools
import itertools
import sys
import time

import jax

from experiments import cli, finetune, results
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.extraction import head, logistic
from tljax.extraction.features import extract_splits
from tljax.finetuning import labels, strategy, summary
from tljax.measures import scores
from tljax.train import trial

Splits = dict[str, Dataset]


@dataclasses.dataclass(kw_only=True)
class Flags(finetune.Flags):
  """Compares ways to use a pretrained network."""

  data: tuple[str, ...]
  """Target sets: folder:PATH, ...; a wrong name lists all kinds."""
  strategies: tuple[str, ...] = ('probe', 'lp_ft', 'partial', 'plain', 'chosen')
  """'probe', logistic regression on frozen features; 'lp_ft', its head, then all is
  tuned; 'partial', the upper half of the stages; 'bitfit', biases and norms; methods
  of fine-tuning; 'chosen', what the training examples call for, by their number."""
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
  for (task, (key, count)), name, seed in itertools.product(
    tasks.items(), flags.strategies, flags.seed_range()
  ):
    if run.records(done := f'{task}, {name}-{seed}'):
      continue
    both = [sets[key], extracted(key)]
    both = [{**s, 'train': s['train'].shots(count, seed)} if count else s for s in both]
    facts = choose(both[1]['train']) if name == 'chosen' else {'used': name}
    known = run.records(f'{task}, {facts["used"]}-{seed}')
    judged = known[0] if known else judge(flags, facts['used'], seed, *both)
    run.log(done, judged | facts)
    print(f'{done}: {judged["accuracy"]:.3f}', facts.get('reason', ''), file=sys.stderr)
  grid = tasks, flags.strategies, flags.seed_range()
  results.conclude_grid(run, *grid, flags.model).save()


def extract(flags: Flags, splits: Splits) -> Splits:
  """The features of the frozen network, of the splits that train and judge."""
  parts = {'train': splits['train'], 'test': splits.get('test', splits['validation'])}
  return extract_splits(flags.build_model(2), flags.load_backbone(), parts)


def choose(features: Dataset) -> dict[str, str]:
  """Which strategy to use, by the training examples alone, and the reason."""
  evidence = strategy.measure(features.images, features.labels, len(features.classes))
  found = strategy.choose(evidence)
  return {'used': found.name.replace('full', 'plain'), 'reason': found.reason}


def judge(flags: Flags, name: str, seed: int, splits: Splits, features: Splits) -> dict:
  """Returns the test accuracy, the seconds of training, and what it takes."""
  training, count = splits['train'], len(splits['train'].classes)
  model, start = flags.build_model(count), flags.load_backbone()
  if name in ('probe', 'lp_ft'):
    began = time.perf_counter()
    probe = logistic.fit(features['train'].images, training.labels, count)
    seconds = time.perf_counter() - began
    if name == 'probe':
      test, trained = features['test'], probe.variables
      accuracy = scores.accuracy(probe.logits(test.images), test.labels)
      trained = sum(leaf.size for leaf in jax.tree.leaves(trained))
      return {'accuracy': accuracy, 'seconds': seconds, 'trained': trained}
    _, start = head.join(model, start, probe)
  half = model.spec.stages[len(model.spec.stages) // 2]
  rules = {'partial': labels.up_to(model.spec, half), 'bitfit': 'backbone/.*/kernel'}
  own = {'method': 'plain' if name in ('lp_ft', *rules) else name}
  own |= {'freeze': (rules[name],)} if name in rules else {}
  own['batch_size'] = size = min(flags.batch_size, len(training))
  one = dataclasses.replace(flags, **own)
  steps = max(flags.min_steps, batches.steps_for(training, flags.epochs, size))
  (method,) = one.methods(count, steps, training, splits['validation']).values()
  stream, options = one.stream(training, seed), {'name': name, 'every': steps}
  ended = trial(method, stream, steps, splits, seed=seed, variables=start, **options)
  state = summary.abstract_state(method, start, stream(0))
  groups = summary.groups(state, one.optimizer(steps, model.spec)).values()
  figures = {'accuracy': ended.accuracy, 'seconds': ended.seconds}
  figures['trained'] = sum(group.trained for group in groups)
  return figures | {'memory': sum(summary.memory(method, state, stream(0)).values())}


if __name__ == '__main__':
  cli.main(strategies, Flags)
