"""Which pretrained network's features will transfer: scores to rank networks by.

Features are (N, D) float of the target's training examples, labels (N,) integer, of any
numbers. All are NumPy in, float out, in float64, and the larger the better. Each raises
an `InputError` where features do not vary or all labels are one; see `labelled`.
`evidence` has LogME, `source_predictions` what wants a pretrained classifier. `score`
gives all of features, in the time of a few.
"""

import functools
import os
import warnings
from collections.abc import Callable
from concurrent import futures

import numpy as np
from scipy import linalg, stats
from scipy.linalg import lapack
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tljax.errors import InputError
from tljax.measures.evidence import logme
from tljax.measures.labelled import check_features, drawn, one_hot, principal
from tljax.measures.source_predictions import n_leep


def h_score(
  features: np.ndarray, labels: np.ndarray, *, gram: np.ndarray | None = None
) -> float:
  """H-score: tr(C^+ B) (Bao et al., 2019, definition 2), from 0 to K - 1.

  C is the features' covariance and B that of the classes' means, of each example its
  own. Where the features are not fewer than the examples it is K - 1 whatever
  they are; see `shrunk_h_score`.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    gram: (D, D), Z' Z of the centred features Z; computed where it is not at hand.
  """
  centred, means = _moments(check_features(features, labels), labels)
  gram = centred.T @ centred if gram is None else gram
  # Of directions without variance, there is none between classes.
  least = len(gram) * np.finfo(np.float64).eps * gram.diagonal().max()
  factor, order, rank, _ = lapack.dpstrf(gram, lower=1, tol=least)
  if rank >= len(centred) - 1:
    return float(len(np.unique(labels)) - 1)  # but for rounding, which would rank
  kept = order[:rank] - 1
  white = linalg.solve_triangular(factor[:rank, :rank], means.T[kept], lower=True)
  return float(np.sum(white**2))


def shrunk_h_score(
  features: np.ndarray, labels: np.ndarray, *, gram: np.ndarray | None = None
) -> float:
  """H-score by Ledoit and Wolf's covariance (Ibrahim et al., 2021, equation 6).

  The covariance is (1 - a) C + a tr(C) / D; the classes' is shrunk by 1 - a as well,
  and has N - 1 for its denominator, as in published code.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    gram: (D, D), Z' Z of the centred features Z; computed where it is not at hand.
  """
  centred, means = _moments(check_features(features, labels), labels)
  count, width = centred.shape
  covariance = (centred.T @ centred if gram is None else gram) / count
  mean = covariance.trace() / width
  # Ledoit and Wolf, 2004, lemma 3.2 to 3.4: errors of C's entries, by its distance.
  square, least = np.sum(covariance**2), np.finfo(np.float64).eps
  apart = np.sum((covariance - mean * np.eye(width)) ** 2)
  error = np.mean(np.sum(centred**2, 1) ** 2) - square
  # Of one feature, or of directions alike, there is nothing to shrink.
  is_alike = apart <= least * square
  shrinkage = least if is_alike else np.clip(error / (count * apart), least, 1)
  covariance *= 1 - shrinkage
  covariance[np.diag_indices(width)] += shrinkage * mean
  solved = linalg.solve(covariance, means.T, assume_a='pos')
  return float((1 - shrinkage) / (count - 1) * np.sum(means.T * solved))


def gbc(features: np.ndarray, labels: np.ndarray, *, directions: int = 64) -> float:
  """Minus how much the classes overlap as Gaussians (Pandy et al., 2022, equation 3).

  The sum over pairs of classes, in either order, of Bhattacharyya's coefficient
  exp(-distance), of the principal components of the features; the Gaussians are
  spherical, with a variance of 1e-4 at least, as the authors' are, whose code leaves
  their dimension out of the part that compares variances. Of features on so small a
  scale that the least decides, all classes overlap.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    directions: number of principal components.
  """
  points, _ = principal(check_features(features, labels), directions)
  parts = [points[labels == k] for k in np.unique(labels)]
  means = np.stack([part.mean(0) for part in parts])
  spread = np.array([np.maximum(part.var(0), 1e-4).mean() for part in parts])
  both = (spread[:, None] + spread[None]) / 2
  squared = np.sum((means[:, None] - means[None]) ** 2, -1)
  ratio = np.log(both) - (np.log(spread[:, None]) + np.log(spread[None])) / 2
  overlap = np.exp(-squared / both / 8 - points.shape[1] / 2 * ratio)
  return -float(np.sum(overlap) - len(parts))


def transrate(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  distortion: float = 1e-4,
  gram: np.ndarray | None = None,
) -> float:
  """TransRate: the rate of all features - the mean of the classes'.

  (Huang et al., 2022.) A rate is that of coding the rows Z up to a distortion, which is
  log det(1 + Z' Z / (N e)) / 2 nats (equations 3 to 5). The features are centred over
  all examples, the classes weigh the same, and e is 1e-4 as in the authors' code. It
  grows with the features' scale.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    distortion: e.
    gram: (D, D), Z' Z of the centred features Z; computed where it is not at hand.
  """
  features = check_features(features, labels)
  centred = features - features.mean(0)
  classes = [_rate(centred[labels == k], distortion) for k in np.unique(labels)]
  return _rate(centred, distortion, gram) - float(np.mean(classes))


def parc(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  directions: int = 32,
  examples: int = 2000,
  seed: int = 0,
) -> float:
  """PARC: do examples that look alike have one label? (Bolya et al., 2021, section 3.)

  100 times Spearman's correlation, over pairs of examples, of 1 - Pearson's correlation
  of their features with that of their labels' indicators, which only knows the same
  class from another. From -100 to 100. Features are the principal components, each of
  variance 1, as in the authors' code.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    directions: number of principal components; the authors'.
    examples: drawn where there are more, as pairs go as their square.
    seed: draws them.
  """
  features, labels = drawn(features, labels, examples, seed)
  points, _ = principal(features, directions)
  spread = points.std(0)
  seen = spread > 1e-6 * spread.max()  # the others are rounding
  points = points[:, seen] / spread[seen]
  unit = points - points.mean(1, keepdims=True)
  unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
  pairs = np.triu_indices(len(unit), 1)
  apart = 1 - (unit @ unit.T)[pairs]
  other = labels[pairs[0]] != labels[pairs[1]]
  ranks = stats.rankdata(apart) - (len(apart) + 1) / 2
  share = other.mean()
  # Ranks of two values take two values: their mean product is one of a mean.
  spread = ranks.std() * np.sqrt(share * (1 - share))
  return 100 * float(np.mean(ranks * (other - share)) / spread) if spread > 0 else 0.0


def linear_probe(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  folds: int = 5,
  examples: int = 2000,
  seed: int = 0,
) -> float:
  """Accuracy of a logistic regression on held-out folds, in [0, 1].

  Features are standardised, and the regression's C is 0.1. A class of one example, of
  those drawn, is left out, as it cannot be trained on and held out.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    folds: number of them, or of the examples of the rarest class where it has fewer.
    examples: drawn where there are more; as many more as two of each class are.
    seed: draws examples and folds.

  Raises:
    InputError: as all; or no two classes have two examples drawn each.
  """
  examples = max(examples, 2 * len(np.unique(labels)))
  features, labels = drawn(features, labels, examples, seed, least=2)
  _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
  if np.sum(counts > 1) < 2:
    raise InputError(f'of {len(labels)} examples no two classes have two each')
  kept, rarest = counts[classes] > 1, counts[counts > 1].min()
  features, labels = features[kept], labels[kept]
  probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
  split = StratifiedKFold(min(folds, rarest), shuffle=True, random_state=seed)
  with warnings.catch_warnings():  # it takes many for targets of a regression
    warnings.filterwarnings('ignore', 'The number of unique classes')
    found = cross_val_score(probe, np.float32(features), labels, cv=split)
  return float(found.mean())


def neighbours(
  features: np.ndarray, labels: np.ndarray, *, examples: int = 2000, seed: int = 0
) -> float:
  """Share of examples whose nearest other one is of their class, in [0, 1].

  By Euclidean distance (Puigcerver et al., 2021, section 4.1).

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    examples: drawn where there are more.
    seed: draws them.
  """
  features, labels = drawn(features, labels, examples, seed)
  points = np.float32(features - features.mean(0))  # as precise as they come
  products = points @ points.T
  squared = products.diagonal() - 2 * products  # less the norms of the rows
  np.fill_diagonal(squared, np.inf)
  return float(np.mean(labels[squared.argmin(1)] == labels))


# By name, the scores of features and labels alone.
OF_FEATURES: dict[str, Callable[..., float]] = {
  'LogME': logme,
  'N-LEEP': n_leep,
  'H-score': h_score,
  'shrunk H-score': shrunk_h_score,
  'GBC': gbc,
  'TransRate': transrate,
  'PARC': parc,
  'linear probe': linear_probe,
  'nearest neighbour': neighbours,
}


def score(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Returns all of `OF_FEATURES` by name, of features (N, D) and labels (N,).

  A thread a score: those of one product wait for each other longer than they work.
  The features' Gram matrix is made once, on which four of them spend half their time.
  """
  features = check_features(features, labels)
  centred = features - features.mean(0)
  gram = centred.T @ centred
  scores = OF_FEATURES | {
    name: functools.partial(OF_FEATURES[name], gram=gram)
    for name in ('LogME', 'H-score', 'shrunk H-score', 'TransRate')
  }
  with (
    warnings.catch_warnings(),  # the threads' own filters end with this one
    threadpool_limits(1),
    futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    found = pool.map(lambda of: of(features, labels), scores.values())
    return dict(zip(scores, found, strict=True))


def _moments(features, labels):
  """Centred features (N, D), and classes' means times the roots of counts (K, D)."""
  centred = features - features.mean(0)
  indicators = one_hot(labels)
  means = indicators.T @ centred / np.sqrt(indicators.sum(0))[:, None]
  return centred, means


def _rate(rows, distortion, gram=None):
  count, width = rows.shape
  if count < width:
    gram = rows @ rows.T
  elif gram is None:
    gram = rows.T @ rows
  gram = gram / (count * distortion)
  gram[np.diag_indices(len(gram))] += 1
  return float(np.log(linalg.cholesky(gram, lower=True).diagonal()).sum())
