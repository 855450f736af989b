"""What a network learns: one class an example, any number of them, or a regression."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from tljax import losses
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.models import Classifier
from tljax.models.base import Rescaled


class Task(NamedTuple):
  """What is learned, as a run's configuration keeps it.

  Attributes:
    class_names: of K classes; none of a regression.
    is_multi_label: whether an example may have several of them, or none.
    mean, std: of each target of a regression, over the training examples.
  """

  class_names: tuple[str, ...] = ()
  is_multi_label: bool = False
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()

  @property
  def outputs(self) -> int:
    """Classes, or targets."""
    return len(self.class_names) or len(self.mean)

  @property
  def figure(self) -> str:
    """Which figure of the validation split says how good a network is."""
    if self.is_multi_label:
      return 'validation_mean_average_precision'
    return 'validation_accuracy' if self.class_names else 'validation_r2'

  @property
  def loss(self) -> losses.Loss | None:
    """Of outputs (N, K) and labels; None where it is a method's own, of one class.

    Of a regression it is the mean squared error in units of the targets' deviation.
    """
    if self.is_multi_label:
      return losses.binary_cross_entropy
    return None if self.class_names else self._standard_error

  def _standard_error(self, outputs, labels):
    std = np.float32(self.std)[None]
    return losses.squared_error(outputs / std, labels.reshape(outputs.shape) / std)

  def check_one_class(self, what: str) -> None:
    """Raises InputError unless an example has one class, which `what` is for."""
    if self.loss:
      has = 'any number' if self.is_multi_label else 'targets of a regression'
      raise InputError(f'{what} is for one class an example; these have {has}')

  def loss_option(self, method: str, options: Collection[str]) -> dict:
    """Returns the option 'loss' of a method, or none where its own is right.

    Raises:
      InputError: its own is not right, and it has no such option.
    """
    if 'loss' not in options:
      self.check_one_class(f'--method {method}')
    return {'loss': self.loss} if self.loss else {}

  def fit(self, model: Classifier) -> Classifier:
    """Returns the model, which predicts targets of a regression in their unit."""
    if self.class_names:
      return model
    return model.clone(head=Rescaled(model.head, self.mean, self.std))


def of(*sets: Dataset) -> Task:
  """Returns the task of all these training sets."""
  first = sets[0]
  if first.classes:
    return Task(first.classes, first.is_multi_label)
  targets = np.concatenate([part.labels.reshape(len(part), -1) for part in sets])
  mean, std = targets.mean(0), np.maximum(targets.std(0), 1e-6)
  return Task((), False, tuple(mean.tolist()), tuple(std.tolist()))


def read(config: Mapping) -> Task:
  """Returns the task that a run's configuration keeps."""
  known = {k: config[k] for k in Task._fields if k in config}
  return Task(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})
