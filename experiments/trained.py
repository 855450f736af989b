"""Trained networks, out of the run folders that the other scripts leave."""

import dataclasses
import functools
import importlib
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tasks
from tljax import sharding
from tljax.checkpoint import Checkpoints
from tljax.data import Transform
from tljax.data.augment import to_float
from tljax.data.images import Images
from tljax.errors import InputError
from tljax.extraction import saved
from tljax.inference import in_batches
from tljax.measures import saliency
from tljax.run import Run

SCRIPTS = ('adapt', 'extract', 'finetune', 'quickstart')  # what leaves networks


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Flags of the scripts that put a trained network to use."""

  run: pathlib.Path
  """Run folder of the network: that of finetune, adapt, ..."""
  strategy: str | None = None
  """Which of the run's networks; by default the last it trained: the adapted one."""
  best: bool = False
  """As it validated best, of an adaptation by InfoMax; by default as training ended."""
  skip_corrupt: bool = False
  """Leave out, and name, images that cannot be read."""


class Trained(NamedTuple):
  """A trained network.

  Attributes:
    name: of its training: strategy and seed.
    classes: K names; none of a regression.
    transform: of images.
    predict: maps images (N, H, W, 3) float32 in [0, 1] to logits (N, K).
    stages: of its backbone, bottom to top.
    is_multi_label: see `saved.Saved`.
  """

  name: str
  classes: tuple[str, ...]
  transform: Transform
  predict: Callable[[jax.Array], jax.Array]
  stages: tuple[str, ...]
  is_multi_label: bool = False

  def logits(self, images: np.ndarray | Images) -> np.ndarray:
    """Maps images (N, H, W, 3) uint8 to logits (N, K)."""
    run = jax.jit(lambda x: self.predict(to_float(x)))
    return in_batches(run, images, 64, sharding.of_processes())

  @property
  def outputs(self) -> int:
    """How many logits, or targets, it gives of an image."""
    size = self.transform.size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(self.predict, images).shape[-1]

  def evidence(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) of where in images (N, H, W, 3) uint8 the labels (N,) are seen."""
    images, stage = to_float(jnp.asarray(images)), ('backbone', self.stages[-1])
    return np.asarray(
      saliency.grad_cam(self.predict, images, stage, jnp.asarray(labels))
    )


def load(
  folder: pathlib.Path, strategy: str | None = None, best: bool = False
) -> Trained:
  """Returns the network that a run trained, of the run's first seed.

  Args:
    folder: the run's.
    strategy: by default the last that the script trains, such as the adapted one.
    best: of the step that validated best, not of the last.

  Raises:
    InputError: the folder holds no such network.
  """
  try:
    config = json.loads((folder / 'config.json').read_text())
    script = config['script']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f'{folder} is no run folder of {", ".join(SCRIPTS)}') from error
  if script not in SCRIPTS:
    raise InputError(f'{folder}: {script} leaves no network; {", ".join(SCRIPTS)} do')
  if script == 'extract':
    if best:
      raise InputError(f'{folder}: extract leaves one network; leave out --best')
    model, variables, classes, transform, is_multi_label = saved.load(folder / 'model')
    predict = functools.partial(_logits, model, variables)
    about = classes, transform, predict, model.spec.stages, is_multi_label
    return Trained(config['head'], *about)
  if '.py' in config.get('method', ''):  # not run: the folder may be a stranger's
    raise InputError(f'{folder}: its method is a file of its own; load it in Python')
  flags = _flags(importlib.import_module(f'experiments.{script}').Flags, folder, config)
  task = tasks.read(config)
  methods = flags.methods(task, steps=1)
  strategy = strategy or list(methods)[-1]
  if strategy not in methods:
    known = ', '.join(methods)
    raise InputError(f'{folder} has no strategy {strategy!r}; choose one of {known}')
  name, transform = f'{strategy}-{flags.seed}', flags.transform()
  state = _restore(Run(folder), name, methods[strategy], transform.size, best)
  predict = functools.partial(methods[strategy].predict, state)
  stages = flags.build_model(task.outputs).spec.stages
  about = transform, predict, stages, task.is_multi_label
  return Trained(name, task.class_names, *about)


def _logits(model, variables, images):
  return model.apply(variables, images)['logits']


def _flags(kind, folder, config):
  """The flags that a run was started with."""
  known = {field.name for field in dataclasses.fields(kind)}
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
  return kind(out=folder, **{k: v for k, v in values.items() if k in known})


def _restore(run, name, method, size, best):
  images = {'image': np.zeros((2, size, size, 3), np.float32)}
  labelled = {**images, 'label': np.zeros(2, np.int32)}
  # What either family of methods is initialised on.
  batch = {**labelled, 'source': labelled, 'target': images}
  folder = run.checkpoints(name)
  if not folder.is_dir():
    raise InputError(f'{folder} is absent: the run has not trained that yet')
  with Checkpoints(folder) as checkpoints:
    if checkpoints.latest_step() is None:
      raise InputError(f'{folder} holds no checkpoint; finish the run by --resume')
    step = checkpoints.best_step() if best else checkpoints.latest_step()
    if step is None:
      raise InputError(f'{folder}: by no figure one is the best; leave out --best')
    like = jax.eval_shape(lambda: method.init(jax.random.key(0), None, batch))
    fields = [field.name for field in dataclasses.fields(like)]
    # To predict takes no optimiser state, which would be two thirds of the bytes.
    parts = {k: getattr(like, k) for k in fields if k != 'opt_state'}
    parts = {k: part for k, part in parts.items() if jax.tree.leaves(part)}
    return like.replace(opt_state=(), **checkpoints.restore_part(parts, step))
