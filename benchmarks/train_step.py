"""Times one training step: DANN, fine-tuning, frozen backbone; beside PyTorch.

python -m benchmarks.train_step --out train_step.json
"""

import dataclasses
import json
import os
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from experiments import cli
from tljax import data, models
from tljax.adaptation import dann
from tljax.errors import InputError
from tljax.finetuning import labels, plain

try:
  import torch

  from benchmarks import torch_twins
except ImportError:
  torch = None

LEARNING_RATE = 1e-3
STRENGTH = 0.5
Case = Literal['dann', 'fine_tune', 'frozen']


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Times the core training steps, beside PyTorch where it is installed."""

  out: pathlib.Path | None = None
  """JSON file for the figures; it must not exist."""
  cases: tuple[Case, ...] = ('dann', 'fine_tune', 'frozen')
  """Which steps: DANN on digits; SqueezeNet 1.1 at 224 pixels, whole or its head."""
  rounds: int = 10
  """Turns of each framework."""
  steps: int = 5
  """Steps in a turn."""
  batch_size: int = 32
  """Images in a batch, of each domain for DANN."""


def inputs(case: str, batch_size: int) -> dict[str, np.ndarray]:
  """Real digits for DANN; random images of a photograph's size for SqueezeNet."""
  if case == 'dann':
    source, target = (
      data.load(name, data.Transform(16))['train'] for name in ('digits', 'digits-m')
    )
    return {
      'source': np.float32(source.images[:batch_size] / 255),
      'label': source.labels[:batch_size],
      'target': np.float32(target.images[:batch_size] / 255),
    }
  rng = np.random.default_rng(0)
  return {
    'source': rng.random((batch_size, 224, 224, 3), np.float32),
    'label': rng.integers(0, 2, batch_size, np.int32),
  }


def tljax_method(case: str):
  """Returns the method of the case."""
  optimizer = optax.adam(LEARNING_RATE)
  if case == 'dann':
    model = models.create('cnn', 10)
    return dann.method(model, optimizer, strength=STRENGTH)
  model = models.create('squeezenet1_1').clone(head=models.Linear(2))
  if case == 'frozen':
    return plain.method(*labels.freeze(model, optimizer, 'backbone/.*'))
  return plain.method(model, optimizer)


def tljax_step(case: str, arrays: dict[str, np.ndarray]):
  """Returns a function that runs one jitted, donated step, and waits for it."""
  method = tljax_method(case)
  arrays = jax.tree.map(jnp.asarray, arrays)
  batch = source = {'image': arrays['source'], 'label': arrays['label']}
  if case == 'dann':
    batch = {'source': source, 'target': {'image': arrays['target']}}
  return harness.stepper(method, batch)


def torch_step(case: str, arrays: dict[str, np.ndarray]):
  """Returns a function that runs the same step in PyTorch, and waits for it."""
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  torch.set_num_threads(os.cpu_count())

  def module(made):
    return made.to(device, memory_format=torch.channels_last)

  target = torch.from_numpy(arrays['label']).long().to(device)
  if case == 'dann':
    parts = torch_twins.CNN(), torch.nn.Linear(64, 10), torch_twins.Discriminator(64)
    parts = [module(part) for part in parts]
    optimizer = _adam(*parts)
    step = torch_twins.dann_step(*parts, optimizer, STRENGTH)
    batch = (
      torch_twins.images(arrays['source'], device),
      target,
      torch_twins.images(arrays['target'], device),
    )
  else:
    backbone, head = module(torch_twins.SqueezeNet()), module(torch.nn.Linear(512, 2))
    frozen = case == 'frozen'
    optimizer = _adam(head) if frozen else _adam(backbone, head)
    step = torch_twins.supervised_step(
      backbone.train(not frozen), head, optimizer, frozen
    )
    batch = torch_twins.images(arrays['source'], device), target
  return torch_twins.stepper(step, batch)


def _adam(*modules):
  parameters = [p for module in modules for p in module.parameters()]
  return torch.optim.Adam(parameters, LEARNING_RATE)


def measure(case: str, flags: Flags) -> dict:
  """Returns the figures of one case: seconds per step, compilation, ratio."""
  arrays = inputs(case, flags.batch_size)
  peers = torch_step(case, arrays) if torch else None
  ours = tljax_step(case, arrays)
  return {'case': case} | harness.beside(ours, peers, flags.rounds, flags.steps)


def train_step(flags: Flags) -> None:
  if flags.out and flags.out.exists():
    raise InputError(f'{flags.out} exists; choose another --out')
  if min(flags.rounds, flags.steps, flags.batch_size) < 1 or not flags.cases:
    raise InputError('--rounds, --steps, --batch-size and --cases must be at least 1')
  figures = [measure(case, flags) for case in flags.cases]
  harness.show(figures, 'Training step')
  if flags.out:
    environment = harness.environment(
      torch=torch and torch.__version__, batch_size=flags.batch_size
    )
    flags.out.write_text(json.dumps({**environment, 'cases': figures}, indent=2) + '\n')


if __name__ == '__main__':
  cli.main(train_step, Flags)
