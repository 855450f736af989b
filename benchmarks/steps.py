"""One training step of each network and strategy, in tljax and in PyTorch."""

import dataclasses
import functools
import importlib
import pathlib
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Contender, Contenders, compiled, filled, stepper
from tljax import models
from tljax.finetuning import labels, lora, plain
from tljax.method import Method

try:
  import torch

  from benchmarks import torch_twins
except ImportError:
  torch = None

# By network, the stage up to which training the top stage freezes.
NETWORKS = {
  'vgg16': 'stage4',
  'resnet50': 'stage3',
  'mobilenet_v2': 'stage6',
  'vit_base_patch16_224': 'block11',
}
# Only the forward pass; the head on a frozen backbone; the top stage too; all; LoRA.
STRATEGIES = ('features', 'head', 'top', 'fine_tune', 'lora')
CLASSES, RANK = 10, 8
# Times a step's FLOPs are those of the forward pass, the backward pass being two. Of
# MCD's six passes forth one moves the heads alone.
PASSES = {'features': 1, 'head': 1, 'fine_tune': 3, 'dann': 3, 'cdan': 3, 'mcd': 16}

Dtype = Literal['float32', 'bfloat16']


def usual_dtype() -> Dtype:
  """What steps compute in unless told: bfloat16 but on a CPU."""
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is the same for all cases.

  Attributes:
    peers: contenders that are wanted beside tljax's.
    batch_size: images in a batch, of each domain; None is the case's own.
    dtype: what steps of networks and of adaptation compute in, and their peers.
    pixels: height and width of the photographs.
    data: folder of photographs for the input pipeline and the founding recipe; None
      draws some.
    scratch: an empty folder of the case.
  """

  peers: tuple[str, ...] = ('torch',)
  batch_size: int | None = None
  dtype: Dtype = dataclasses.field(default_factory=usual_dtype)
  pixels: int = 224
  data: pathlib.Path | None = None
  scratch: pathlib.Path = pathlib.Path('runs')

  @property
  def photographs(self) -> int:
    """Photographs in a batch: few on a CPU, where a step of them takes seconds."""
    return self.batch_size or (8 if jax.default_backend() == 'cpu' else 128)


def draw(count: int, pixels: int, classes: int, domains: int = 1) -> dict:
  """Returns 'image' (N, H, W, 3), 'label' (N,), perhaps 'target': timing only."""
  rng = np.random.default_rng(0)
  names = ('image', 'target')[:domains]
  shape = count, pixels, pixels, 3
  arrays = {name: rng.random(shape, np.float32) for name in names}
  return {**arrays, 'label': rng.integers(0, classes, count, np.int32)}


def optimizer(learning_rate: float = 1e-3) -> optax.GradientTransformation:
  """Of all steps: SGD with Nesterov momentum."""
  return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


def build_model(
  network: str, classes: int, dtype: Dtype | None = None
) -> models.Classifier:
  """Returns the network and a linear head, that compute in `usual_dtype` or another."""
  in_half = (dtype or usual_dtype()) == 'bfloat16'
  options = {'dtype': jnp.bfloat16} if in_half else {}
  return models.create(network, classes, **options).clone(head=models.Linear(classes))


def build_method(network: str, strategy: str, dtype: Dtype | None = None) -> Method:
  """Returns what trains by the strategy; of 'features' there is none."""
  model = build_model(network, CLASSES, dtype)
  if strategy == 'lora':
    return lora.method(model, optimizer(), rank=RANK)
  frozen = {
    'head': ('backbone/.*',),
    'top': (labels.up_to(model.spec, NETWORKS[network]),),
    'fine_tune': (),
  }[strategy]
  if not frozen:
    return plain.method(model, optimizer())
  return plain.method(*labels.freeze(model, optimizer(), *frozen))


def supervised(network: str, strategy: str, settings: Settings) -> Contenders:
  """A step of the strategy on photographs, beside PyTorch's."""
  arrays = draw(settings.photographs, settings.pixels, CLASSES)
  batch = jax.tree.map(jnp.asarray, arrays)
  if strategy == 'features':
    ours = _forward(build_model(network, CLASSES, settings.dtype), batch['image'])
  else:
    ours = stepper(build_method(network, strategy, settings.dtype), batch)
  ours = with_flops(ours, network, strategy, settings.pixels, len(arrays['label']))
  width = models.spec(network).feature_dim
  given = network, strategy, width, CLASSES, RANK
  return {'tljax': ours, **peers('torch_twins.supervised', given, arrays, settings)}


def with_flops(ours, network, name, pixels, images) -> Contender:
  """Counts the network's own: of a library's, or of a loop, XLA counts too few."""
  spec, passes = models.spec(network), PASSES.get(name)
  if not (passes and spec.multiply_adds and pixels == spec.input_size):
    return ours
  flops = 2e6 * spec.multiply_adds * passes * images
  return ours._replace(facts={**ours.facts, 'flops': flops})


def _forward(model, images) -> Contender:
  """The pooled features, of variables that are arguments, lest XLA folds them."""
  variables = filled(jax.eval_shape(model.init, jax.random.key(0), images))
  began = time.perf_counter()
  embed = jax.jit(lambda v, x: model.apply(v, x, method='embed')['features'])
  step = embed.lower(variables, images).compile()
  facts = compiled(step, time.perf_counter() - began)
  features = None

  def run():
    nonlocal features
    features = step(variables, images)
    return features

  return Contender(run, facts, lambda: jax.block_until_ready(features))


def first_step(network: str, strategy: str, count: int, pixels: int) -> None:
  """Runs one step, of weights that are drawn."""
  batch = jax.tree.map(jnp.asarray, draw(count, pixels, CLASSES))
  jax.block_until_ready(stepper(build_method(network, strategy), batch).run())


def peers(kind: str, given: tuple, arrays: dict, settings: Settings) -> Contenders:
  """PyTorch's contenders that are wanted, each with a network of its own.

  Args:
    kind: the module of `benchmarks` and its function that makes PyTorch's step.
    given: its arguments.
    arrays: the batch.
    settings: of the case.
  """
  found = {}
  for name in ('torch', 'torch.compile'):
    if name in settings.peers:
      options = {'dtype': settings.dtype, 'is_compiled': name != 'torch'}
      found[name] = attempt(
        functools.partial(_torch_contender, kind, given, arrays, **options)
      )
  return found


def _torch_contender(kind, given, arrays, **options) -> Contender:
  module, name = kind.split('.')
  make = getattr(importlib.import_module(f'benchmarks.{module}'), name)
  step, modules = make(*given, **options)
  batch = torch_twins.placed_batch(arrays)
  run = torch_twins.stepper(step, batch)
  return Contender(run, torch_twins.facts(run, modules, batch), torch_twins.wait)


def attempt(make: Callable[[], Contender]) -> Contender | str:
  """Returns the peer, or why there is none: that spoils no other's figures."""
  if torch is None:
    return 'PyTorch is not installed'
  try:
    return make()
  except Exception as error:  # compilers raise all kinds
    return f'{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}'
