"""The founding recipe of feature extraction, end to end, beside Keras 3 on JAX.

VGG16 without its top (random weights), Flatten, Dense 512 with ReLU, Dropout 0.5,
softmax; Adam, 10 epochs. tljax extracts once and trains on the features; Keras fits the
frozen model. The networks are drawn beforehand, as a user loads them; what is timed
compiles, too.
"""

import dataclasses
import importlib.util
import os

os.environ.setdefault('KERAS_BACKEND', 'jax')

import jax
import numpy as np
import optax

from benchmarks.harness import Contender, Contenders, filled
from benchmarks.input import TRANSFORM, photographs
from benchmarks.steps import CLASSES, Settings
from tljax import models, train
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.extraction import probe
from tljax.extraction.features import extract
from tljax.models.base import FlattenMLP

_RATE = 1e-3
_BATCH = 32
_SMALL_SET = 256


def few(settings: Settings, epochs: int = 10) -> Contenders:
  """The whole recipe on two batches, of which compiling is a good part."""
  size = settings.batch_size or _BATCH
  return recipe(settings, drawn(2 * size, settings.pixels), epochs)


def many(settings: Settings, epochs: int = 10) -> Contenders:
  """The whole recipe on a folder's photographs, or as many as a small set has."""
  if settings.data:
    dataset = photographs(settings.data, TRANSFORM, in_memory=True)
  else:
    dataset = drawn(_SMALL_SET, settings.pixels)
  return recipe(settings, dataset, epochs)


def recipe(settings: Settings, dataset: Dataset, epochs: int) -> Contenders:
  """Extraction and the head beside Keras' fit of the frozen model, of photographs
  that are decoded.
  """
  size = settings.batch_size or _BATCH
  found = {'tljax': Contender(ours(dataset, size, epochs))}
  if importlib.util.find_spec('keras'):
    found['keras'] = Contender(theirs(dataset, size, epochs))
  else:
    found['keras'] = 'Keras is not installed'
  return found


def drawn(count: int, pixels: int) -> Dataset:
  """Returns noise: the time does not depend on what the photographs show."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, pixels, pixels, 3), np.uint8)
  labels = rng.integers(0, CLASSES, count, np.int32)
  return Dataset(images, labels, tuple(map(str, range(CLASSES))))


def ours(dataset: Dataset, size: int, epochs: int):
  """Returns a function that extracts, trains, and returns the head's parameters."""
  model = models.create('vgg16').clone(head=FlattenMLP(len(dataset.classes)))
  images = np.float32(dataset.images[:1])
  variables = filled(jax.eval_shape(model.init, jax.random.key(0), images))

  def run():
    options = {'endpoint': 'map', 'batch_size': size}
    rows = extract(model, variables, dataset.images, **options)
    features = dataclasses.replace(dataset, images=rows)
    method = probe.method(probe.Probe(model.head), optax.adam(_RATE))
    stream = batches.stream(features, size, seed=0)
    state = method.init(jax.random.key(0), None, stream(0))
    length = batches.steps_for(features, epochs, size)
    return train.fit(method, state, stream, length)[0].params

  return run


def theirs(dataset: Dataset, size: int, epochs: int):
  """Returns a function that fits in Keras, and returns the trainable variables."""
  import keras

  layers = keras.layers
  shape = dataset.images.shape[1:]
  base = keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)
  base.trainable = False
  head = [layers.Flatten(), layers.Dense(512, 'relu'), layers.Dropout(0.5)]
  classes = len(dataset.classes)
  model = keras.Sequential([base, *head, layers.Dense(classes, 'softmax')])
  loss = 'sparse_categorical_crossentropy'
  optimizer = keras.optimizers.Adam(_RATE)
  model.compile(optimizer=optimizer, loss=loss, metrics=['accuracy'])
  images = np.float32(dataset.images / 255)

  def run():
    options = {'batch_size': size, 'epochs': epochs, 'verbose': 0}
    model.fit(images, dataset.labels, **options)
    return [variable.value for variable in model.trainable_variables]

  return run
