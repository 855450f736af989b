"""Fine-tunes a pretrained network, whole or in part, or trains it from scratch.

  python -m experiments.finetune --data folder:hymenoptera_data \
    --weights squeezenet1_1.safetensors --method bss --out runs/fine-tuned
"""

import dataclasses
import sys
from typing import Literal

import optax

from experiments import cli, results, tasks
from tljax import discovery, finetuning, models, optimizers
from tljax.data import augment, batches
from tljax.data.dataset import Dataset, judging_split
from tljax.finetuning import labels, summary
from tljax.method import Method
from tljax.train import Plan, compare


@dataclasses.dataclass(kw_only=True)
class Flags(cli.Few, cli.TrainingFlags):
  """Fine-tunes a network on labelled images; without --weights, from scratch."""

  data: str
  """digits, folder:PATH; a wrong one lists all."""
  method: str = 'plain'
  """Fine-tuning method, or a file with one of your own; a wrong name lists them all."""
  options: tuple[str, ...] = ()
  """Of the method: rank=16; wrong ones list all."""
  freeze: tuple[str, ...] = ()
  """Patterns of parameter paths to hold fixed: 'backbone/stage[12]/.*'."""
  learning_rate: float = 1e-4
  weight_decay: float = 0.0
  """Of kernels, as AdamW's."""
  layer_decay: float = 1.0
  """Factor of the rate a stage down."""
  backbone_rate: float = 1.0
  """Factor of the backbone's rate."""
  mix: Literal['none', 'mixup', 'cutmix', 'both'] = 'none'
  """Blend of training images and labels."""
  dry_run: bool = False
  """Only show what would train, and memory."""

  def optimizer(self, steps: int, spec: models.Spec) -> optax.GradientTransformation:
    """Returns AdamW along a cosine over `steps`, slower further down."""
    schedule = optax.cosine_decay_schedule(self.learning_rate, steps)
    return optax.chain(
      optax.adamw(schedule, weight_decay=self.weight_decay, mask=optimizers.decay_mask),
      optimizers.layer_decay(spec, self.layer_decay),
      optimizers.backbone_rate(self.backbone_rate),
    )

  def methods(self, task: tasks.Task, steps: int, *sets: Dataset) -> dict[str, Method]:
    """By strategy, what is trained, given the training examples or nothing."""
    known = finetuning.defaults(self.method)
    given = discovery.parse_options(self.options, known)
    model = task.fit(self.build_model(task.outputs))
    optimizer = self.optimizer(steps, model.spec)
    if self.freeze:
      model, optimizer = labels.freeze(model, optimizer, *self.freeze)
    plain = 'fine_tuning' if self.weights else 'scratch'
    options = task.loss_option(self.method, known) | self.load_source(known, *sets)
    method = finetuning.create(self.method, model, optimizer, **options, **given)
    return {plain if self.method == 'plain' else discovery.label(self.method): method}


def finetune(flags: Flags) -> None:
  splits = flags.load_data(flags.data, multi_label=True)
  training, mix = splits['train'], augment.MIXES.get(flags.mix)
  few, task = flags.few(training), tasks.of(training)
  if mix:
    task.check_one_class(f'--mix {flags.mix}')
  steps = batches.steps_for(few[flags.seed], flags.epochs, flags.batch_size)
  variables, plans = flags.load_backbone(), {}
  for seed, examples in few.items():
    if not plans or 'relationship' in finetuning.defaults(flags.method):
      ((name, method),) = flags.methods(task, steps, examples).items()
    stream = flags.stream(examples, seed, mix=mix and mix(task.outputs))
    plans[seed] = {name: Plan(method, stream, variables)}
  # A method may refuse the model: rather now than in a folder of its own.
  batch = stream(0)
  summary.abstract_state(method, variables, batch)
  if variables is None and (flags.method != 'plain' or flags.freeze):
    print('without --weights, what is held or kept near is random', file=sys.stderr)
  if flags.dry_run:
    optimizer = flags.optimizer(steps, flags.build_model(task.outputs).spec)
    return summary.show(method, optimizer, variables, batch)
  run = flags.open_run(fingerprint=training.fingerprint(), **task._asdict())
  options = flags.machine.options() | {'best': task.figure}
  trials = compare(plans, steps, splits, run, **options)
  text, judged = flags.describe(splits, steps), judging_split(splits)
  results.conclude(run, trials, judged, flags.data, text).save()


if __name__ == '__main__':
  cli.main(finetune, Flags)
