"""Ridge regression in closed form, its strength chosen by leaving each example out."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np
import scipy.linalg

from tljax.errors import InputError
from tljax.extraction.head import Head, linear

LAMBDAS = tuple(10.0**e for e in range(-3, 7))


class Ridge(NamedTuple):
  """A ridge regression.

  Attributes:
    head: its linear head.
    strength: the chosen lambda.
    errors: of every lambda, the mean squared error of examples, and targets, that
      were left out of the fit.
  """

  head: Head
  strength: float
  errors: np.ndarray


def fit(
  features: np.ndarray,
  targets: np.ndarray,
  num_classes: int | None = None,
  *,
  lambdas: Sequence[float] = LAMBDAS,
  views: int = 1,
) -> Head:
  """As `regress`, of which it is the head; also for classes, with targets of -1 and 1.

  Args:
    features: (N, D) float.
    targets: (N,) or (N, T) float; of classes (N,) integer in [0, num_classes).
    num_classes: of classes.
    lambdas: to choose from.
    views: see `regress`.
  """
  if num_classes and targets.ndim == 1:
    targets = 2.0 * np.eye(num_classes)[targets] - 1.0
  return regress(features, targets, lambdas, views).head


def regress(
  features: np.ndarray,
  targets: np.ndarray,
  lambdas: Sequence[float] = LAMBDAS,
  views: int = 1,
) -> Ridge:
  """Minimises squared errors plus lambda times the squared weights (Hoerl and Kennard,
  1970), the lambda of least error when each example is left out in turn.

  One singular value decomposition serves all lambdas, and leaving out needs no second
  fit: the error is the residual over 1 - h, where h is the example's leverage (Golub,
  Heath and Wahba, 1979); of an example with several views, which are left out together,
  (I - H)^-1 times the residuals. The intercept is free. All is computed in float64.

  Args:
    features: (N, D) float.
    targets: (N,) or (N, T) float.
    lambdas: to choose from, above 0.
    views: of each example; their rows are as those of `features.extract`.

  Raises:
    InputError: there is one example, and none to fit when it is left out.
  """
  chex.assert_rank([features, targets], [2, {1, 2}])
  chex.assert_is_divisible(len(features), views)
  examples = len(features) // views
  if examples < 2:
    raise InputError(f'ridge leaves out one example of {examples}; give 2 or more')
  x, y = np.float64(features), np.float64(targets.reshape(len(targets), -1))
  x_mean, y_mean = x.mean(0), y.mean(0)
  left, values, right = scipy.linalg.svd(x - x_mean, full_matrices=False)
  # Centred, more columns than rows leave a direction of nothing: that of the intercept.
  rank = np.sum(values > np.finfo(float).eps * max(x.shape) * values.max(initial=0))
  left, values, right = left[:, :rank], values[:rank], right[:rank]
  rotated = left.T @ (y - y_mean)  # (rank, T)
  outside = y - y_mean - left @ rotated  # what no weights can explain

  def by_example(rows):
    return rows.reshape(views, examples, -1).swapaxes(0, 1)

  blocks = by_example(left)
  # I - H of the largest leverage; rounding must not take it below zero.
  slack, axes = np.linalg.eigh(np.eye(views) - 1 / len(x) - blocks @ blocks.mT)
  slack = axes * np.maximum(slack, 0)[:, None] @ axes.mT
  errors = []
  for strength in lambdas:
    shrunk = strength / (values**2 + strength)
    residuals = by_example(outside + left @ (shrunk[:, None] * rotated))
    left_out = np.linalg.solve(slack + blocks * shrunk @ blocks.mT, residuals)
    errors.append(np.mean(left_out**2))
  best = float(lambdas[int(np.argmin(errors))])
  kernel = right.T @ ((values / (values**2 + best))[:, None] * rotated)
  head = linear(kernel, y_mean - x_mean @ kernel)
  return Ridge(head, best, np.array(errors))
