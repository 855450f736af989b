"""Are two sets of features alike? Figures for a report, of NumPy arrays to floats.

Features are (N, D) of the source and (M, D) of the target. `shift.py` has the distances
that a method can close.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tljax.errors import InputError
from tljax.measures import shift


def proxy_a_distance(source: np.ndarray, target: np.ndarray, *, seed: int = 0) -> float:
  """2 (1 - 2 e), where e is the error of a linear classifier of the domains.

  (Ben-David et al., 2007.) A logistic regression learns on half of the
  features and errs on the other half; the errors on either domain weigh the same. 0
  where it guesses, 2 where it never errs; below 0 by chance.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    seed: splits the features in halves.
  """
  points = np.concatenate([source, target])
  domains = np.repeat([0, 1], [len(source), len(target)])
  train, test, seen, truth = train_test_split(
    points, domains, test_size=0.5, stratify=domains, random_state=seed
  )
  classifier = make_pipeline(
    StandardScaler(), LogisticRegression(class_weight='balanced', max_iter=1000)
  )
  wrong = classifier.fit(train, seen).predict(test) != truth
  error = (wrong[truth == 0].mean() + wrong[truth == 1].mean()) / 2
  return float(2 * (1 - 2 * error))


def mmd_p_value(
  source: np.ndarray,
  target: np.ndarray,
  *,
  permutations: int = 500,
  kernel: shift.Kernel = shift.adaptive_gaussians(),
  seed: int = 0,
) -> float:
  """How often random halves of all points are as far apart: the MMD's p-value.

  The share of the permutations, the given order among them, whose `shift.mmd` is at
  least that of the two sets (Gretton et al., 2012). The kernels' widths follow the
  median squared distance of all points, their heuristic, which no few distant points
  move. Memory and time go as (N + M)^2.

  Args:
    source: (N, D) float.
    target: (M, D) float; two points of either at least.
    permutations: number of random ones; the least p-value is 1 / (it + 1).
    kernel: of the squared distances and their median.
    seed: draws them.

  Raises:
    InputError: a set has fewer than two points.
  """
  if min(len(source), len(target)) < 2:
    raise InputError(
      f'sets of {len(source)} and {len(target)} points; the MMD takes two of each'
    )
  points = np.concatenate([source, target]).astype(np.float32)
  squared = euclidean_distances(points, squared=True)
  median = np.median(squared[np.triu_indices(len(points), 1)])
  similar = np.array(kernel(squared, median), np.float64)
  np.fill_diagonal(similar, 0)
  rng, count = np.random.default_rng(seed), len(source)
  orders = [np.arange(len(points))]
  orders += [rng.permutation(len(points)) for _ in range(permutations)]
  distances = np.array([_mmd(similar, order, count) for order in orders])
  # Of equal ones, rounding would leave out some.
  return float(np.mean(distances >= distances[0] - 1e-9 * np.abs(distances[0])))


def _mmd(similar, order, count):
  """Of the first `count` of an order to the rest; similarities to oneself are 0."""
  first, rest = order[:count], order[count:]
  n, m = len(first), len(rest)
  within = similar[np.ix_(first, first)].sum() / (n * (n - 1))
  within += similar[np.ix_(rest, rest)].sum() / (m * (m - 1))
  return within - 2 * similar[np.ix_(first, rest)].mean()


def frechet_distance(source: np.ndarray, target: np.ndarray) -> float:
  """Squared 2-Wasserstein distance of the Gaussians of the same moments.

  |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Dowson and Landau, 1982), which on
  Inception's features is the FID (Heusel et al., 2017).

  Args:
    source: (N, D) float.
    target: (M, D) float.
  """
  means = [points.mean(0) for points in (source, target)]
  # The eigenvalues of C C' are the squared singular values of a product of C's and C''s
  # factors, which needs no root of a matrix that may be singular.
  factors = [
    np.linalg.qr(points - mean, 'r') / np.sqrt(len(points) - 1)
    for points, mean in zip((source, target), means, strict=True)
  ]
  shared = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
  spread = sum(np.sum(np.square(factor)) for factor in factors)
  return float(np.sum(np.square(means[0] - means[1])) + spread - 2 * shared)
