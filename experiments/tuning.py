"""One way to use a pretrained network on one target set, and what it takes."""

import dataclasses
import time
from collections.abc import Callable

import jax

from experiments import tasks
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.extraction import head, logistic
from tljax.finetuning import labels, summary
from tljax.measures import scores
from tljax.train import trial

Splits = dict[str, Dataset]


def judge(
  flags, name: str, seed: int, splits: Splits, features: Callable[[], Splits]
) -> dict:
  """Returns the test accuracy, the seconds of training, and what it takes.

  `features` gives those of the frozen network; it is called where `name` wants them.
  """
  training, count = splits['train'], len(splits['train'].classes)
  model, start = flags.build_model(count), flags.load_backbone()
  if name in ('probe', 'lp_ft'):
    frozen, began = features(), time.perf_counter()
    probe = logistic.fit(frozen['train'].images, training.labels, count)
    seconds = time.perf_counter() - began
    if name == 'probe':
      test, trained = frozen['test'], probe.variables
      accuracy = scores.accuracy(probe.logits(test.images), test.labels)
      trained = sum(leaf.size for leaf in jax.tree.leaves(trained))
      return {'accuracy': accuracy, 'seconds': seconds, 'trained': trained}
    _, start = head.join(model, start, probe)
  half = model.spec.stages[len(model.spec.stages) // 2]
  rules = {'partial': labels.up_to(model.spec, half)}
  rules['bitfit'] = labels.ALL_BUT_BIASES
  own = {'method': 'plain' if name in ('lp_ft', *rules) else name}
  own |= {'freeze': (rules[name],)} if name in rules else {}
  own['batch_size'] = size = min(flags.batch_size, len(training))
  one = dataclasses.replace(flags, **own)
  steps = max(flags.min_steps, batches.steps_for(training, flags.epochs, size))
  (method,) = one.methods(tasks.of(training), steps, training).values()
  stream, options = one.stream(training, seed), flags.machine.options()
  options |= {'name': name, 'every': steps}
  ended = trial(method, stream, steps, splits, seed=seed, variables=start, **options)
  state = summary.abstract_state(method, start, stream(0))
  groups = summary.groups(state, one.optimizer(steps, model.spec)).values()
  figures = {'accuracy': ended.accuracy, 'seconds': ended.seconds}
  figures['trained'] = sum(group.trained for group in groups)
  return figures | {'memory': sum(summary.memory(method, state, stream(0)).values())}
