"""Candidates of one head, fitted or trained on features, and how well each does."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from tljax import sweep, train
from tljax.data import batches
from tljax.data.dataset import Dataset, stratified
from tljax.extraction.head import Head, rescaled
from tljax.measures import scores
from tljax.method import Method, TrainState, all_finite
from tljax.run import Run


class Candidates(NamedTuple):
  """A head for each of the settings.

  Attributes:
    heads: in the order of the settings.
    records: of the training, see `train.fit`; the last has the 'seconds' of all.
  """

  heads: list[Head]
  records: list[dict]


def fit(
  fit: Callable[..., Head], settings: Sequence[Mapping], training: Dataset
) -> Candidates:
  """Fits a head to each setting: `fit(features, labels, num_classes, **setting)`."""
  began = time.perf_counter()
  classes = len(training.classes) or None
  heads = [fit(training.images, training.labels, classes, **s) for s in settings]
  seconds = round(time.perf_counter() - began, 3)
  return Candidates(heads, [{'step': len(heads), 'seconds': seconds}])


class Trainer(NamedTuple):
  """Trains the heads of all settings at once, by gradients.

  Attributes:
    method: of one setting, or a `sweep`.
    head_of: `state -> Head`, of one member.
    members: of the sweep; None where there is none.
  """

  method: Method
  head_of: Callable[[TrainState], Head]
  members: int | None = None

  @classmethod
  def of(
    cls,
    make: Callable[..., Method],
    head_of: Callable[[TrainState], Head],
    settings: Sequence[Mapping],
  ) -> 'Trainer':
    """Returns that of `make(**setting)`."""
    if len(settings) == 1:
      return cls(make(**settings[0]), head_of)
    return cls(sweep.method(make, settings), head_of, len(settings))

  def heads(self, state: TrainState) -> list[Head]:
    """The heads, in the order of the settings."""
    if self.members is None:
      return [self.head_of(state)]
    return [self.head_of(sweep.member(state, i)) for i in range(self.members)]

  def fit(
    self,
    training: Dataset,
    validation: Dataset,
    steps: int,
    batch_size: int,
    seed: int,
    run: Run,
    name: str,
  ) -> Candidates:
    """Trains with one seed; the validation split gives the curve of the best head.

    Targets of a regression are standardised, and the heads give them back.
    """
    heads = self.heads
    if not training.classes:
      targets = training.labels.reshape(len(training), -1)
      scale, offset = targets.std(0), targets.mean(0)
      scale = np.where(scale > 0, scale, np.float32(1))
      training = dataclasses.replace(training, labels=(targets - offset) / scale)

      def heads(state):
        return [rescaled(head, scale, offset) for head in self.heads(state)]

    def evaluate(state):
      best = max(score(head, validation) for head in heads(state))
      return {f'validation_{scores.metric(validation.labels)}': best}

    stream = batches.stream(training, batch_size, seed)
    state = self.method.init(jax.random.key(seed), None, stream(0))
    state, records = train.fit(
      self.method,
      state,
      stream,
      steps,
      evaluate=evaluate,
      run=run,
      name=name,
      is_sound=sweep.any_finite if self.members else all_finite,
    )
    return Candidates(heads(state), records)


def score(head: Head, split: Dataset) -> float:
  """Returns the `scores.metric` of a head on features, the larger the better."""
  logits = head.logits(split.images)
  return scores.score(logits, split.labels) if np.isfinite(logits).all() else -np.inf


def choose(found: Sequence[Candidates], validation: Dataset) -> int:
  """Returns which of the settings does best on the validation split, by the mean over
  seeds; of equals the first.

  Args:
    found: of each seed.
    validation: its features.
  """
  table = [[score(head, validation) for head in f.heads] for f in found]
  return int(np.argmax(np.mean(table, 0)))


def judge(found: Candidates, index: int, split: Dataset) -> train.Trial:
  """Looks at the split that judges, once, with the head of one setting.

  The trial has the head's logits alone, and an accuracy where examples have a class.
  """
  logits = found.heads[index].logits(split.images)
  return train.Trial.judged(None, found.records, logits, split)


def hold_out(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
  """Returns splits of which one chooses and another judges.

  A set without a test split is judged on its validation split; a fifth of its training
  split then chooses in its place.
  """
  if 'test' in splits:
    return dict(splits)
  training = splits['train']
  one_each = training.classes and not training.is_multi_label
  strata = training.labels if one_each else np.zeros(len(training), np.int32)
  parts = stratified(strata, {'train': 0.8, 'validation': 0.2}, seed=0)
  held = {name: training.take(rows) for name, rows in parts.items()}
  return {**held, 'test': splits['validation']}
