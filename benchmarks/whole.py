"""What surrounds a step: the loop, many runs at once, a process from its start."""

import itertools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import adapt, harness, steps
from benchmarks.harness import Contender, Contenders
from benchmarks.steps import Settings
from tljax import adaptation, models, sharding, sweep, train
from tljax.checkpoint import Checkpoints
from tljax.errors import InputError
from tljax.extraction import linear, probe
from tljax.finetuning import plain
from tljax.finetuning.summary import abstract_state
from tljax.method import Batch, Method
from tljax.models import mlp

_ROOT = pathlib.Path(__file__).parents[1]
_LENGTH = 100  # steps of a run
_WIDTH = 2048  # of cached features: ResNet-50's


def fitted(method: Method, batch: Batch, length: int = _LENGTH) -> Contender:
  """Returns a run of `train.fit`, compiled in its first; each goes on from the last."""
  state = method.init(jax.random.key(0), None, batch)
  mesh = sharding.data_mesh(jax.devices()[:1])

  def run():
    nonlocal state
    until = int(state.step) + length
    options = {'every': length, 'mesh': mesh}
    state, _ = train.fit(method, state, lambda step: batch, until, **options)

  return Contender(run)


def loop(settings: Settings, length: int = 400) -> Contenders:
  """`train.fit` beside the bare jitted step, of the quickstart's network."""
  model = models.create('cnn', 10)
  arrays = steps.draw(settings.batch_size or 64, 16, 10)
  batch = jax.tree.map(jnp.asarray, arrays)
  method = plain.method(model, steps.optimizer())
  state = method.init(jax.random.key(0), None, batch)
  step = jax.jit(method.step, donate_argnums=0)

  def bare():
    nonlocal state
    for _ in range(length):
      state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return {'tljax': fitted(method, batch, length), 'bare step': Contender(bare)}


def _features(count: int, classes: int) -> dict[str, jax.Array]:
  rng = np.random.default_rng(0)
  rows, labels = (
    rng.random((count, _WIDTH), np.float32),
    rng.integers(0, classes, count),
  )
  return {'image': jnp.asarray(rows), 'label': jnp.asarray(labels, jnp.int32)}


def heads(settings: Settings, members: int = 32) -> Contenders:
  """Linear heads on cached features, a sweep of learning rates beside one head."""
  batch = _features(settings.batch_size or 64, steps.CLASSES)

  def make(learning_rate=1e-3):
    optimizer = steps.optimizer(learning_rate)
    return probe.method(linear.LinearProbe(steps.CLASSES), optimizer)

  grid = sweep.grid(learning_rate=np.geomspace(1e-4, 1e-2, members))
  many = sweep.method(make, grid)
  return {'tljax': fitted(many, batch), 'one head': fitted(make(), batch)}


def seeds(settings: Settings, members: int = 5) -> Contenders:
  """DANN on cached features: several seeds, as `experiments.compare` trains them on
  this device, beside one.
  """
  batch = _features(settings.batch_size or 36, steps.CLASSES)
  model = mlp.of_rows(np.asarray(batch['image']), steps.CLASSES)
  pair = {'source': batch, 'target': {'image': batch['image']}}
  options = {'strength': adapt.STRENGTH}
  method = adaptation.create('dann', model, steps.optimizer(), **options)
  if jax.default_backend() == 'cpu':
    runs = [fitted(method, pair) for _ in range(members)]
    many = Contender(lambda: [one.run() for one in runs])
  else:
    grid = sweep.grid(seed=range(members))
    stacked = jax.tree.map(lambda x: jnp.stack([x] * members), pair)
    many = fitted(sweep.method(lambda: method, grid, own_batches=True), stacked)
  return {'tljax': many, 'one seed': fitted(method, pair)}


def saving(settings: Settings) -> Contenders:
  """A checkpoint of ResNet-50 and its momentum, until it is on disk."""
  batch = steps.draw(1, 224, steps.CLASSES)
  method = steps.build_method('resnet50', 'fine_tune')
  state = harness.filled(abstract_state(method, None, batch))
  checkpoints = Checkpoints(settings.scratch / 'ours', keep=1)
  numbers = itertools.count(1)

  def run():
    checkpoints.save(next(numbers), state)
    checkpoints.wait()

  def theirs():
    torch = steps.torch
    given = 'resnet50', 'fine_tune', 2048, steps.CLASSES, steps.RANK
    step, modules = steps.torch_twins.supervised(*given)
    momenta = [[torch.zeros_like(p) for p in m.parameters()] for m in modules]
    whole = [[m.state_dict() for m in modules], momenta]
    file = settings.scratch / 'torch.pt'
    return Contender(lambda: torch.save(whole, file))

  peers = {'torch': steps.attempt(theirs)} if 'torch' in settings.peers else {}
  return {'tljax': Contender(run), **peers}


def process(code: str, **environment: str) -> Contender:
  """Returns a fresh process of Python that runs the code."""

  def run():
    told = subprocess.run(
      [sys.executable, '-c', code],
      cwd=_ROOT,
      env={**os.environ, **environment},
      capture_output=True,
      text=True,
    )
    if told.returncode:
      raise InputError(f'a fresh process failed: {told.stderr.strip()[-200:]}')

  return Contender(run)


def importing(settings: Settings) -> Contenders:
  """All of tljax that a training imports, beside jax and flax alone."""
  del settings
  parts = 'adaptation, data, extraction, finetuning, models, train, weights'
  return {
    'tljax': process(f'from tljax import {parts}'),
    'jax, flax': process('import jax, flax'),
  }


def starting(settings: Settings) -> Contenders:
  """A fresh process up to its first step of fine-tuning ResNet-50."""
  given, size = ('resnet50', 'fine_tune'), (settings.photographs, settings.pixels)
  # `benchmarks.steps` imports PyTorch where it is installed; a user's process does not.
  ours = (
    'import sys; sys.modules["torch"] = None; '
    f'from benchmarks import steps; steps.first_step(*{given}, *{size})'
  )
  width = models.spec('resnet50').feature_dim
  theirs = (
    'from benchmarks import torch_twins; '
    f'torch_twins.first_step(*{given}, {width}, {steps.CLASSES}, {steps.RANK}, *{size})'
  )
  # A cache as every script has it, which the warm-up fills.
  found = {
    'tljax': process(ours, JAX_COMPILATION_CACHE_DIR=str(settings.scratch)),
    'empty cache': process(ours, JAX_ENABLE_COMPILATION_CACHE='false'),
  }
  if 'torch' in settings.peers:
    found['torch'] = steps.attempt(lambda: process(theirs))
  return found


def quickstart(settings: Settings) -> Contenders:
  """`python -m experiments.quickstart`, as the README has it."""
  argv = ['--out', str(settings.scratch / 'quickstart')]
  code = (
    f'import runpy, sys; sys.argv[1:] = {argv}; '
    'runpy.run_module("experiments.quickstart", run_name="__main__")'
  )
  return {'tljax': process(code)}
