"""Adapts a network from a labelled source to an unlabelled target.

  python -m experiments.adapt --method dann --source digits --target digits-m \
    --model cnn --augment invert_contrast --epochs 70 --batch-size 64 --out runs/dann

Trains on the source alone as well, with as many steps, to show what the method adds.
"""

import dataclasses

import jax

from experiments import cli
from tljax.data import batches
from tljax.data.dataset import check_same_classes
from tljax.method import Method
from tljax.train import Plan, compare


@dataclasses.dataclass(kw_only=True)
class Flags(cli.AdaptationFlags):
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
  balanced: bool = False
  """Source batches hold every class alike."""

  def methods(self, num_classes: int, steps: int) -> dict[str, Method]:
    """By strategy, what is trained."""
    names, model = ('source_only', self.method), self.build_model(num_classes)
    return self.adaptation(names, model, steps, self.strength)


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
