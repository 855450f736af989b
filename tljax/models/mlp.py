"""A multilayer perceptron of rows of features, such as a table's."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from etils import epy

from tljax.models.base import Classifier, Linear, Spec
from tljax.models.products import Dense

with epy.lazy_imports():  # it is slow to import
  from sklearn import preprocessing


class MLP(nn.Module):
  """Dense layers with ReLU; the last gives the features."""

  widths: Sequence[int]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    outputs = {}
    for i, width in enumerate(self.widths):
      name = f'stage{i + 1}'
      outputs[name] = x = nn.relu(Dense(width, name=name)(x))
    return {**outputs, 'features': x}


def of_rows(
  rows: np.ndarray, num_outputs: int, *, widths: Sequence[int] = (64, 64)
) -> Classifier:
  """Returns the model of rows (N, D) float, as another model is of images.

  Args:
    rows: of the training split: the model standardises by their means and deviations.
      A column that is constant there is centred alone.
    num_outputs: classes, or targets of a regression.
    widths: of the hidden layers.
  """
  scaler = preprocessing.StandardScaler().fit(rows)
  stages = tuple(f'stage{i + 1}' for i in range(len(widths)))
  mean, std = (tuple(x.tolist()) for x in (scaler.mean_, scaler.scale_))
  spec = Spec(1, 1, mean, std, stages, widths[-1])
  return Classifier(MLP(tuple(widths)), Linear(num_outputs), spec)
