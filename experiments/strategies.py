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

from experiments import cli, finetune
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.extraction import head, logistic
from tljax.extraction.features import extract_splits
from tljax.finetuning import labels, summary
from tljax.measures import scores
from tljax.train import trial


@dataclasses.dataclass(kw_only=True)
class Flags(finetune.Flags):
  """Compares ways to use a pretrained network."""

  data: tuple[str, ...]
  """Target sets: folder:PATH, ...; a wrong name lists all kinds."""
  strategies: tuple[str, ...] = ('probe', 'lp_ft', 'partial', 'plain')
  """'probe', logistic regression on frozen features; 'lp_ft', its head and then all is
  tuned; 'partial', all but the lower half of the stages; or methods of fine-tuning."""
  few: tuple[int, ...] = (0,)
  """Labelled training images of each class; 0 are all."""
  min_steps: int = 100
  """Steps of a training, however few its examples and --epochs are."""
  weights: str
  """Pretrained weights: a file, or a tag of the zoo."""
  augment: cli.Augment = 'none'
  learning_rate: float = 1e-3
  backbone_rate: float = 0.1
  seeds: int = 5


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
    few = [sets[key], extracted(key)] if name in ('probe', 'lp_ft') else [sets[key]]
    if count:
      few = [{**s, 'train': s['train'].shots(count, seed)} for s in few]
    run.log(done, judged := judge(flags, name, seed, *few))
    print(f'{done}: {judged["accuracy"]:.3f}', file=sys.stderr)
  cli.conclude_grid(run, tasks, flags.strategies, flags.seed_range(), flags.model)


def extract(flags: Flags, splits: dict[str, Dataset]) -> dict[str, Dataset]:
  """The features of the frozen network, of the splits that train and judge."""
  parts = {'train': splits['train'], 'test': splits.get('test', splits['validation'])}
  return extract_splits(flags.build_model(2), flags.load_backbone(), parts)


def judge(
  flags: Flags,
  name: str,
  seed: int,
  splits: dict[str, Dataset],
  features: dict[str, Dataset] | None = None,
) -> dict:
  """Returns the test accuracy, seconds, parameters trained and a step's bytes."""
  training, count = splits['train'], len(splits['train'].classes)
  backbone = flags.load_backbone()
  if features:
    began = time.perf_counter()
    probe = logistic.fit(features['train'].images, training.labels, count)
    seconds = time.perf_counter() - began
    _, backbone = head.join(flags.build_model(count), backbone, probe)
    if name == 'probe':
      logits, test = probe.logits(features['test'].images), features['test']
      trained = sum(p.size for p in jax.tree.leaves(probe.variables))
      accuracy = scores.accuracy(logits, test.labels)
      return {'accuracy': accuracy, 'seconds': seconds, 'trained': trained}
  size = min(flags.batch_size, len(training))
  steps = max(flags.min_steps, batches.steps_for(training, flags.epochs, size))
  one = dataclasses.replace(flags, batch_size=size, method=name)
  if name in ('lp_ft', 'partial'):
    one = dataclasses.replace(one, method='plain')
  if name == 'partial':
    spec = flags.build_model(count).spec
    half = labels.up_to(spec, spec.stages[len(spec.stages) // 2])
    one = dataclasses.replace(one, freeze=(half,))
  (method,) = one.methods(count, steps, training, splits['validation']).values()
  stream = one.stream(training, seed)
  ended = trial(
    method, stream, steps, splits, seed=seed, variables=backbone, name=name, every=steps
  )
  state = summary.abstract_state(method, backbone, stream(0))
  moved = summary.groups(state, one.optimizer(steps, flags.build_model(count).spec))
  return {
    'accuracy': ended.accuracy,
    'seconds': ended.seconds,
    'trained': sum(group.trained for group in moved.values()),
    'memory': sum(summary.memory(method, state, stream(0)).values()),
  }


if __name__ == '__main__':
  cli.main(strategies, Flags)
