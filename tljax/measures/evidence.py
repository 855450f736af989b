"""LogME: how likely labels are under linear models of features."""

import math

import numpy as np
from scipy import linalg, optimize
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from tljax.measures.labelled import check_features, one_hot

_LEAST, _MOST = 1e-10, 1e6  # of the prior's share, in units of the Gram matrix' trace


def logme(
  features: np.ndarray, labels: np.ndarray, *, gram: np.ndarray | None = None
) -> float:
  """LogME: the largest log evidence of a linear model of the labels (You et al., 2021).

  The logarithm of p(y | F), an example, where y = F w + noise, w ~ N(0, 1 / alpha) and
  noise ~ N(0, 1 / beta) (equation 2), at the alpha and beta that make it largest; the
  mean over targets, of which each class is one, 1 for its examples and 0 for others;
  those of a regression that never vary are left out.

  For a given ratio t = alpha / beta the best beta is N / q(t), so that the evidence is
  a function of t alone: -(log det(1 + F F' / t) + N log(2 pi q / N) + N) / 2 with
  q = y' (1 + F F' / t)^-1 y. Of a tridiagonal form of the Gram matrix each t takes
  linear time, and no eigenvector is wanted. The authors' code stops after eleven steps
  of a fixed-point iteration to the same maximum, or where D is larger than N to that of
  another function, which counts eigenvalues that are 0 in one of two places.

  Args:
    features: (N, D) float.
    labels: (N,) integer, of classes; or (N,) or (N, T) float, of a regression.
    gram: (D, D), Z' Z of the centred features Z; computed where it is not at hand.

  Raises:
    InputError: see `check_features`.
  """
  features, labels = check_features(features, labels), np.asarray(labels)
  is_regression = np.issubdtype(labels.dtype, np.floating)
  targets = np.float64(labels) if is_regression else one_hot(labels)
  targets = targets.reshape(len(labels), -1)
  targets = targets[:, np.ptp(targets, 0) > 0]  # what never varies tells nothing
  evidence = _evidence(features, targets, gram)
  grid = np.linspace(math.log(_LEAST), math.log(_MOST), 33)
  values = np.stack([evidence(point) for point in grid])
  best = np.clip(values.argmax(0), 1, len(grid) - 2)
  found = [
    -optimize.minimize_scalar(
      lambda point, k=k: -evidence(point, k)[0],
      bounds=(grid[i - 1], grid[i + 1]),
      method='bounded',
      options={'xatol': 1e-3},
    ).fun
    for k, i in enumerate(best)
  ]
  return float(np.mean(found) / len(targets))


def _evidence(features, targets, gram):
  """Returns `(log of t over the trace, targets' index) -> log evidences`."""
  count, wide = len(features), len(features) < features.shape[1]
  if wide:
    gram = features @ features.T
  elif gram is None:
    gram = features.T @ features
  else:
    total = features.sum(0)
    gram = gram + np.outer(total, total / count)
  right = targets if wide else features.T @ targets
  diagonal, beside, right = _tridiagonal(gram, right)
  squared, trace = np.sum(targets**2, 0), diagonal.sum()

  def evidence(point, k=slice(None)):
    t, chosen = math.exp(point) * trace, right[:, k].reshape(len(diagonal), -1)
    factor = linalg.cholesky_banded(np.stack([diagonal + t, beside]), lower=True)
    explained = chosen * linalg.cho_solve_banded((factor, True), chosen)
    explained = explained.sum(0)
    q = t * explained if wide else squared[k] - explained
    log_det = 2 * np.log(factor[0]).sum() - len(diagonal) * math.log(t)
    fit = np.log(2 * np.pi * np.maximum(q, _LEAST * squared[k]) / count) + 1
    return -(log_det + count * fit) / 2

  return evidence


def _tridiagonal(matrix, right):
  """Returns Q' M Q, as its diagonal and what is below (D,), and Q' R, of (D, K)."""
  if len(matrix) == 1:
    return matrix[0], np.zeros(1), right
  size = int(lapack.dsytrd_lwork(len(matrix), lower=1)[0])
  # Half of it are products of a matrix and a vector, where threads are slower than one.
  with threadpool_limits(1, user_api='blas'):
    reflectors, diagonal, beside, tau, _ = lapack.dsytrd(matrix, lower=1, lwork=size)
  turned, *_ = lapack.dormqr(
    'L', 'T', reflectors[1:, :-1], tau, right[1:], lwork=64 * right.shape[1]
  )
  return diagonal, np.append(beside, 0.0), np.concatenate([right[:1], turned])
