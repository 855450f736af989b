"""Times a step of DANN, CDAN and MCD, on LeNet and ResNet-50; beside PyTorch.

python -m benchmarks.adapt --out adapt.json
"""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from experiments import cli
from tljax import adaptation, models
from tljax.errors import InputError

try:
  import torch

  from benchmarks import torch_twins
except ImportError:
  torch = None

CASES = tuple(
  f'{n}-{m}' for n in ('lenet', 'resnet50') for m in ('dann', 'cdan', 'mcd')
)
# Of Transfer-Learning-Library's examples: pixels, features, classes, batch of a domain.
SIZES = {'lenet': (28, 500, 10, 36), 'resnet50': (224, 2048, 31, 36)}
STRENGTH, WIDTH = 0.5, 1024  # of the game; of CDAN's random map
OPTIMIZER = {'lr': 1e-3, 'momentum': 0.9, 'nesterov': True}


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Times steps of domain adaptation, beside PyTorch where it is installed."""

  out: pathlib.Path | None = None
  """JSON file for the figures; it must not exist."""
  cases: tuple[str, ...] = CASES
  """Which, such as lenet-dann or resnet50-mcd."""
  rounds: int = 5
  """Turns of each framework."""
  steps: int = 2
  """Steps in a turn."""
  batch_size: int | None = None
  """Images of each domain; by default 36."""


def inputs(network: str, batch_size: int | None) -> dict[str, np.ndarray]:
  """Random images: timing only."""
  size, _, classes, count = SIZES[network]
  count, rng = batch_size or count, np.random.default_rng(0)
  source, target = (rng.random((count, size, size, 3), np.float32) for _ in range(2))
  labels = rng.integers(0, classes, count, np.int32)
  return {'source': source, 'label': labels, 'target': target}


def tljax_step(network: str, name: str, arrays: dict[str, np.ndarray]):
  """Returns a function that runs one jitted, donated step, and waits for it."""
  model = models.create(network, SIZES[network][2])
  settings = dict(OPTIMIZER)
  optimizer = optax.sgd(settings.pop('lr'), **settings)
  options = {} if name == 'mcd' else {'strength': STRENGTH}
  method = adaptation.create(name, model, optimizer, **options)
  arrays = jax.tree.map(jnp.asarray, arrays)
  source = {'image': arrays['source'], 'label': arrays['label']}
  batch = {'source': source, 'target': {'image': arrays['target']}}
  return harness.stepper(method, batch)


def torch_step(network: str, name: str, arrays: dict[str, np.ndarray]):
  """Returns a function that runs the same step in PyTorch, and waits for it."""
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  torch.set_num_threads(os.cpu_count())
  _, width, classes, _ = SIZES[network]

  def sgd(*modules):
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.SGD(parameters, **OPTIMIZER)

  def placed(module):
    return module.to(device, memory_format=torch.channels_last).train()

  made = torch_twins.LeNet() if network == 'lenet' else torch_twins.resnet50()
  backbone, *heads = placed(made), placed(torch.nn.Linear(width, classes))
  if name == 'mcd':
    heads.append(placed(torch.nn.Linear(width, classes)))
    step = torch_twins.mcd_step(backbone, heads, sgd(backbone), sgd(*heads))
  else:
    judge = placed(torch_twins.Discriminator(WIDTH if name == 'cdan' else width))
    parts = backbone, heads[0], judge
    if name == 'cdan':
      maps = [torch.randn(n, WIDTH, device=device) for n in (width, classes)]
      step = torch_twins.cdan_step(*parts, sgd(*parts), STRENGTH, maps)
    else:
      step = torch_twins.dann_step(*parts, sgd(*parts), STRENGTH)
  labels = torch.from_numpy(arrays['label']).long().to(device)
  batch = (
    torch_twins.images(arrays['source'], device),
    labels,
    torch_twins.images(arrays['target'], device),
  )
  return torch_twins.stepper(step, batch)


def adapt(flags: Flags) -> None:
  if flags.out and flags.out.exists():
    raise InputError(f'{flags.out} exists; choose another --out')
  if unknown := set(flags.cases) - set(CASES):
    raise InputError(
      f'--cases: {min(unknown)!r} is unknown; there are {", ".join(CASES)}'
    )
  figures = []
  for case in flags.cases:
    network, name = case.split('-')
    arrays = inputs(network, flags.batch_size)
    peers = torch_step(network, name, arrays) if torch else None
    ours = tljax_step(network, name, arrays)
    timed = harness.beside(ours, peers, flags.rounds, flags.steps)
    count = len(arrays['label'])
    figures.append({'case': case, 'batch_size': count, **timed})
  harness.show(figures, 'Step of adaptation')
  if flags.out:
    facts = harness.environment(torch=torch and torch.__version__)
    flags.out.write_text(json.dumps({**facts, 'cases': figures}, indent=2) + '\n')


if __name__ == '__main__':
  cli.main(adapt, Flags)
