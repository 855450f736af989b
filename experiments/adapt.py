"""Adapts a network from a labelled source to an unlabelled target.

  python -m experiments.adapt --method dann --source digits --target digits-m \
    --model cnn --augment invert_contrast --epochs 70 --batch-size 64 --out runs/dann

Trains on the source alone as well, with as many steps, to show what the method adds.
"""

import dataclasses
import math

import jax

from experiments import cli
from tljax import adaptation
from tljax.adaptation import adversarial
from tljax.data import batches
from tljax.data.dataset import check_same_classes
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.method import Method
from tljax.train import Plan, compare


@dataclasses.dataclass(kw_only=True)
class Flags(cli.TrainingFlags):
  """Adapts a network from a labelled source to an unlabelled target."""

  source: str
  """Labelled domain: digits, folder:PATH, ...; a wrong name lists all kinds."""
  target: str
  """Unlabelled domain, of the same classes. Its labels only judge the result."""
  method: str = 'dann'
  """Adaptation method; a wrong name lists them all. Their losses add: cdan+mcc."""
  strength: float | None = None
  """Peak of the method's strength, to which it ramps up over the run; by default the
  method's own, ramped where the method's own is."""
  augment: cli.Augment = 'none'
  balanced: bool = False
  """Source batches hold every class alike."""

  def methods(self, num_classes: int, steps: int) -> dict[str, Method]:
    """By strategy, what is trained."""
    model, optimizer = self.build_model(num_classes), self.load_optimizer(steps)
    parts = self.method.split('+')
    options = {part: method_options(self, part, steps) for part in parts}
    options = options if len(parts) > 1 else options[self.method]
    adapted = adaptation.create(self.method, model, optimizer, **options)
    return {'source_only': plain.method(model, optimizer), self.method: adapted}


def method_options(flags: Flags, name: str, steps: int) -> dict:
  """What a method, or a part of a sum, is given.

  That is its strength, and half of the steps for the first of two phases.

  Raises:
    InputError: there is no such method, or it has no strength to set.
  """
  defaults, options = adaptation.defaults(name), {}
  strength = defaults.get('strength')
  if flags.strength is not None and strength is None:
    raise InputError(f'--method {name} has no strength; leave --strength out')
  if flags.strength is not None or callable(strength):
    peak = strength(math.inf) if flags.strength is None else flags.strength
    options['strength'] = adversarial.ramp(steps, peak=float(peak))
  if 'source_steps' in defaults:
    options['source_steps'] = steps // 2
  return options


def adapt(flags: Flags) -> None:
  source, target = flags.load_data(flags.source), flags.load_data(flags.target)
  check_same_classes(source['train'], target['train'])
  steps = batches.steps_for(source['train'], flags.epochs, flags.batch_size)
  classes = source['train'].classes
  methods = flags.methods(len(classes), steps)
  variables = flags.load_backbone()
  plans = {}
  for seed in flags.seed_range():
    on_source = flags.stream(source['train'], seed, balanced=flags.balanced)
    on_target = flags.stream(target['train'], seed)
    plans[seed] = {
      'source_only': Plan(methods['source_only'], on_source, variables),
      flags.method: Plan(
        methods[flags.method], batches.pair(on_source, on_target), variables
      ),
    }
  # A method may refuse the model: rather now than after training on the source.
  plan = plans[flags.seed][flags.method]
  jax.eval_shape(plan.method.init, jax.random.key(0), plan.start, plan.batches(0))
  prints = [source['train'].fingerprint(), target['train'].fingerprint()]
  run = flags.open_run(fingerprint=prints, class_names=classes)
  trials = compare(plans, steps, target, run)
  title = f'From {flags.source} to {flags.target}'
  cli.conclude(run, trials, title, flags.describe(target, steps)).save()


if __name__ == '__main__':
  cli.main(adapt, Flags)
