"""Times feature extraction: the founding VGG16 recipe beside Keras, and sweeps.

python -m benchmarks.features --data ../hymenoptera_data/train --out features.json
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import time

os.environ.setdefault('KERAS_BACKEND', 'jax')

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from experiments import cli
from tljax import data, models, report, sweep, train
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.extraction import linear, probe
from tljax.extraction.features import extract
from tljax.method import Method
from tljax.models.base import FlattenMLP

LEARNING_RATE = 1e-3
MEMBERS = 32


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Times the founding recipe on frozen VGG16, beside Keras where it is installed."""

  data: pathlib.Path
  """Folder of images per class."""
  out: pathlib.Path | None = None
  """JSON file for the figures; it must not exist."""
  images: int | None = None
  """As many of them; by default all."""
  size: int = 224
  """Height and width, pixels."""
  epochs: int = 10
  batch_size: int = 32
  sweep_mlp: bool = False
  """Also a sweep of 32 of the founding heads, which takes 8 GB."""


def seconds(function, *args) -> tuple[dict, object]:
  """Returns wall and processor seconds of a call, and what it returns."""
  wall, cpu = time.perf_counter(), time.process_time()
  result = jax.block_until_ready(function(*args))
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return {'wall': round(wall, 2), 'processor': round(cpu, 2)}, result


class Recipe:
  """VGG16 with random weights, Flatten, Dense 512 with ReLU, Dropout 0.5, softmax.

  The networks are drawn beforehand: a user loads them. What is timed compiles, too.
  """

  def __init__(self, flags: Flags, dataset: Dataset):
    self._flags, self._dataset = flags, dataset
    self._classes = len(dataset.classes)
    self._steps = batches.steps_for(dataset, flags.epochs, flags.batch_size)
    self._model = models.create('vgg16').clone(head=FlattenMLP(self._classes))
    images = jnp.zeros((1, *dataset.images.shape[1:]))
    self._variables = jax.jit(self._model.init)(jax.random.key(0), images)

  def extract(self) -> Dataset:
    """Runs the backbone once."""
    options = {'endpoint': 'map', 'batch_size': self._flags.batch_size}
    images = self._dataset.images
    found = extract(self._model, self._variables, images, **options)
    return dataclasses.replace(self._dataset, images=found)

  def mlp(self, **settings) -> Method:
    """The founding head's."""
    return _method(probe.Probe(FlattenMLP(self._classes)), **settings)

  def linear(self, **settings) -> Method:
    """A linear head's."""
    return _method(linear.LinearProbe(self._classes), **settings)

  def fit(self, method: Method, features: Dataset):
    """Trains on the features; returns the parameters."""
    stream = batches.stream(features, self._flags.batch_size, seed=0)
    state = method.init(jax.random.key(0), None, stream(0))
    return train.fit(method, state, stream, self._steps)[0].params

  def keras(self):
    """Returns the frozen model and its head in Keras, compiled as its users do."""
    import keras

    layers = keras.layers
    shape = self._dataset.images.shape[1:]
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)
    base.trainable = False
    head = [layers.Flatten(), layers.Dense(512, 'relu'), layers.Dropout(0.5)]
    model = keras.Sequential([base, *head, layers.Dense(self._classes, 'softmax')])
    adam = keras.optimizers.Adam(LEARNING_RATE)
    loss = 'sparse_categorical_crossentropy'
    model.compile(optimizer=adam, loss=loss, metrics=['accuracy'])
    return model

  def fit_keras(self, model, images: np.ndarray):
    """Trains the head in Keras; the backbone runs in every epoch."""
    model.fit(
      images,
      self._dataset.labels,
      batch_size=self._flags.batch_size,
      epochs=self._flags.epochs,
      verbose=0,
    )
    return model.trainable_variables[0].value


def _method(model, learning_rate=LEARNING_RATE) -> Method:
  return probe.method(model, optax.adam(learning_rate))


def measure(flags: Flags, dataset: Dataset) -> dict:
  """Returns the figures: seconds of each part, and ratios of wall time."""
  recipe = Recipe(flags, dataset)
  figures = {'images': len(dataset), 'load_before': os.getloadavg()[0]}
  figures['extract'], features = seconds(recipe.extract)
  pooled = dataclasses.replace(features, images=features.images.mean((1, 2)))
  for name, make, rows in (
    ('linear', recipe.linear, pooled),
    ('mlp', recipe.mlp, features),
  ):
    figures[name], _ = seconds(recipe.fit, make(), rows)
    if name == 'linear' or flags.sweep_mlp:
      settings = sweep.grid(learning_rate=np.geomspace(1e-4, 1e-2, MEMBERS))
      figures[f'{name}_sweep'], _ = seconds(
        recipe.fit, sweep.method(make, settings), rows
      )
  if importlib.util.find_spec('keras'):
    images = np.float32(dataset.images / 255)
    figures['keras'], _ = seconds(recipe.fit_keras, recipe.keras(), images)
  return {**figures, 'load_after': os.getloadavg()[0], **ratios(figures)}


def ratios(figures: dict) -> dict:
  """Keras' time over tljax's, and a sweep's over one head's: alone, and with the
  extraction that both want.
  """
  found = {}
  for clock in ('wall', 'processor'):
    time_of = {k: v[clock] for k, v in figures.items() if isinstance(v, dict)}
    whole, once = time_of['extract'] + time_of['mlp'], time_of['extract']
    here = {}
    if 'keras' in time_of:
      here['keras_over_tljax'] = time_of['keras'] / whole
    for name in ('linear', 'mlp'):
      if f'{name}_sweep' in time_of:
        one, many = time_of[name], time_of[f'{name}_sweep']
        here[f'{name}_sweep_over_one'] = many / one
        here[f'{name}_sweep_over_one_with_extraction'] = (once + many) / (once + one)
    found[f'ratios_{clock}'] = {k: round(v, 2) for k, v in here.items()}
  return found


def features(flags: Flags) -> None:
  if flags.out and flags.out.exists():
    raise InputError(f'{flags.out} exists; choose another --out')
  transform = data.Transform(flags.size, flags.size)
  source = data.folder.read(str(flags.data))['all']
  dataset, _ = data.loading.decode(source, transform, False, True)
  if flags.images:
    rows = np.random.default_rng(0).permutation(len(dataset))[: flags.images]
    dataset = dataset.take(rows)
  figures = measure(flags, dataset)
  rows = [
    {'work': k, **{clock: f'{v[clock]:.1f}' for clock in ('wall', 'processor')}}
    for k, v in figures.items()
    if isinstance(v, dict) and 'wall' in v
  ]
  report.print_table(rows, f'{len(dataset)} images, {flags.epochs} epochs: seconds')
  print(json.dumps({k: v for k, v in figures.items() if k.startswith('ratios')}))
  if flags.out:
    environment = harness.environment(
      epochs=flags.epochs, batch_size=flags.batch_size, size=flags.size
    )
    flags.out.write_text(json.dumps({**environment, **figures}, indent=2) + '\n')


if __name__ == '__main__':
  cli.main(features, Flags)
