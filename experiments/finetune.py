"""Fine-tunes a pretrained network, whole or in part, or trains it from scratch.

  python -m experiments.finetune --data folder:hymenoptera_data \
    --weights squeezenet1_1.safetensors --out runs/fine-tuned

Without --weights it trains from scratch.
"""

import dataclasses
import functools
from typing import Literal

from experiments import cli
from tljax.data import augment, batches
from tljax.finetuning import labels, plain
from tljax.method import Method
from tljax.train import Plan, compare

MIXES = {
  'none': None,
  'mixup': functools.partial(augment.mixup, 0.2),
  'cutmix': functools.partial(augment.cutmix, 1.0),
  'both': augment.mixup_or_cutmix,
}


@dataclasses.dataclass(kw_only=True)
class Flags(cli.TrainingFlags):
  """Fine-tunes a network on labelled images."""

  data: str
  """digits, folder:PATH, csv:PATH, ...; a wrong name lists all kinds."""
  freeze: tuple[str, ...] = ()
  """Regular expressions of parameter paths to hold fixed: 'backbone/stage[12]/.*'."""
  learning_rate: float = 1e-4
  mix: Literal['none', 'mixup', 'cutmix', 'both'] = 'none'
  """Blend of training images and their labels."""

  def methods(self, num_classes: int, steps: int) -> dict[str, Method]:
    """By strategy, what is trained."""
    model, optimizer = self.build_model(num_classes), self.load_optimizer(steps)
    if self.freeze:
      model, optimizer = labels.freeze(model, optimizer, *self.freeze)
    name = 'fine_tuning' if self.weights else 'scratch'
    return {name: plain.method(model, optimizer)}


def finetune(flags: Flags) -> None:
  splits = flags.load_data(flags.data)
  training, mix = splits['train'], MIXES[flags.mix]
  few = flags.few(training)
  steps = batches.steps_for(few[flags.seed], flags.epochs, flags.batch_size)
  ((name, method),) = flags.methods(len(training.classes), steps).items()
  variables = flags.load_backbone()
  plans = {}
  for seed, examples in few.items():
    stream = flags.stream(examples, seed, mix=mix and mix(len(training.classes)))
    plans[seed] = {name: Plan(method, stream, variables)}
  run = flags.open_run(fingerprint=training.fingerprint(), class_names=training.classes)
  trials = compare(plans, steps, splits, run)
  cli.conclude(run, trials, flags.data, flags.describe(splits, steps)).save()


if __name__ == '__main__':
  cli.main(finetune, Flags)
