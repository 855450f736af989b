"""Heads by name: how each is fitted or trained, and the settings that a sweep tries."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import optax

from tljax import losses, optimizers, sweep
from tljax.data import batches
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.extraction import (
  linear,
  logistic,
  nearest_mean,
  neighbours,
  probe,
  ridge,
  search,
  svm,
)
from tljax.extraction.head import standardized
from tljax.measures import scores
from tljax.models.base import FlattenMLP
from tljax.run import Run

Name = Literal['mlp', 'linear', 'logistic', 'ridge', 'knn', 'nearest_mean', 'svm']
# (training, validation, seed, run) -> candidates, of features
Search = Callable[[Dataset, Dataset, int, Run], search.Candidates]

_STRENGTHS = {'C': (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)}
_METRICS = {'metric': ('euclidean', 'cosine')}
_RATES = {'learning_rate': (1e-4, 1e-3, 1e-2), 'weight_decay': (0.0, 1e-2)}
_SWEPT = {
  'mlp': {**_RATES, 'dropout': (0.0, 0.5)},
  'linear': _RATES,
  'logistic': _STRENGTHS,
  'ridge': {},  # which chooses among its own
  'knn': {'k': (1, 3, 5, 10, 20), **_METRICS},
  'nearest_mean': _METRICS,
  'svm': _STRENGTHS,
}
_FITS = {
  'logistic': standardized(logistic.fit),
  'ridge': standardized(ridge.fit),
  'knn': neighbours.fit,
  'nearest_mean': nearest_mean.fit,
  'svm': standardized(svm.fit),
}
_REGRESSIONS = ('mlp', 'linear', 'ridge', 'knn')
_MULTI_LABEL = ('mlp', 'linear', 'logistic')


def settings(name: Name, sweeps: bool, learning_rate: float) -> list[dict]:
  """Returns the settings to choose from: a sweep's, or one with the defaults."""
  if sweeps:
    return sweep.grid(**_SWEPT[name])
  return [{}] if name in _FITS else [{'learning_rate': learning_rate}]


def check_shape(name: Name, shape: tuple[int, ...]) -> None:
  """Raises InputError unless a head takes features of such a shape, of one example."""
  if name != 'mlp' and len(shape) != 1:
    raise InputError(
      f'--head {name} takes rows and the endpoint has shape {shape}; choose a --pooling'
    )


def searcher(
  name: Name,
  settings: Sequence[dict],
  training: Dataset,
  epochs: int,
  batch_size: int,
) -> Search:
  """Returns what gives a head for each of the settings.

  'mlp' is the founding recipe's, Flatten, Dense 512 with ReLU, Dropout 0.5 and a
  linear layer, by Adam at one rate; 'linear' is `LinearProbe`, by Adam along a cosine.
  Weight decay is AdamW's, of kernels. All others are fitted to their optimum.

  Args:
    name: of the head.
    settings: of which each gives a head.
    training: as many examples as it will train on, with their labels.
    epochs: passes over them, where it is trained.
    batch_size: likewise.

  Raises:
    InputError: the head is of classes alone, and these are targets of a regression; it
      gives one class, and these are several; or a number is out of its range.
  """
  if not training.classes and name not in _REGRESSIONS:
    raise InputError(
      f'--head {name} tells classes apart and the set has targets of a regression; '
      f'choose one of {", ".join(_REGRESSIONS)}'
    )
  if training.is_multi_label and name not in _MULTI_LABEL:
    raise InputError(
      f'--head {name} gives one class and the examples have several; choose one of '
      f'{", ".join(_MULTI_LABEL)}'
    )
  if name in _FITS:
    return _fitter(name, settings, len(training))
  batches.check_batch_size(batch_size, len(training))
  steps = batches.steps_for(training, epochs, batch_size)
  width = len(training.classes) or training.labels[:1].size
  loss = losses.cross_entropy if training.classes else losses.squared_error
  loss = losses.binary_cross_entropy if training.is_multi_label else loss
  model = probe.Probe(FlattenMLP(width)) if name == 'mlp' else linear.LinearProbe(width)

  def make(learning_rate, weight_decay=None, dropout=None):
    rate = learning_rate
    if name == 'linear':
      rate = optax.cosine_decay_schedule(learning_rate, steps)
    adam = optax.adam(rate)
    if weight_decay is not None:
      mask = optimizers.decay_mask
      adam = optax.adamw(rate, weight_decay=weight_decay, mask=mask)
    return probe.method(model, adam, loss=loss, dropout=dropout)

  trainer = search.Trainer.of(make, functools.partial(probe.head_of, model), settings)

  def train(training, validation, seed, run):
    own, rows, label = trainer, training.images, f'{name}-{seed}'
    if name == 'linear':
      moments = rows.mean(0, dtype=np.float64), rows.var(0, dtype=np.float64)
      own = own._replace(head_of=lambda state: linear.fold(state.variables, moments))
    return own.fit(training, validation, steps, batch_size, seed, run, label)

  return train


def _fitter(name, settings, examples):
  def fit(training, validation, seed, run):
    one = _FITS[name]
    if name == 'ridge':  # which leaves out examples, with all of their views
      one = functools.partial(one, views=len(training) // examples)
    found = search.fit(one, settings, training)
    best = max(search.score(head, validation) for head in found.heads)
    record = {**found.records[-1], f'validation_{scores.metric(training.labels)}': best}
    run.rewind(f'{name}-{seed}', 0)
    run.log(f'{name}-{seed}', record)
    return found._replace(records=[record])

  return fit
