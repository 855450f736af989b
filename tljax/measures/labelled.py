"""Rows of numbers with a label each, as scores of transferability take them."""

import numpy as np
from sklearn.decomposition import PCA

from tljax.errors import InputError


def one_hot(labels: np.ndarray) -> np.ndarray:
  """Maps labels (N,), of any numbers, to (N, K) float64: the K classes there are."""
  return np.float64(labels[:, None] == np.unique(labels))


def check(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns rows (N, D) as float64, if there are labels (N,) or (N, T) to compare.

  Raises:
    InputError: they are not as many; a number is not finite; or all labels are one.
  """
  rows, labels = np.asarray(rows, np.float64), np.asarray(labels)
  if rows.ndim != 2 or len(rows) != len(labels):
    raise InputError(
      f'rows {rows.shape} and labels {labels.shape} are not of the same examples'
    )
  if not (np.isfinite(rows).all() and np.isfinite(labels).all()):
    raise InputError('some numbers are not finite')
  if len(labels) < 2 or not np.ptp(labels, 0).any():
    raise InputError('all examples have one label; a score compares two or more')
  return rows


def check_features(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns features (N, D) as float64, if they can tell labels (N,) or (N, T).

  Raises:
    InputError: as `check`; or all examples have the same features.
  """
  features = check(features, labels)
  if not np.ptp(features, 0).any():
    raise InputError('all examples have the same features, which tell nothing')
  return features


def principal(features: np.ndarray, directions: int) -> tuple[np.ndarray, np.ndarray]:
  """The leading principal components of features (N, D), (N, d), and shares, (d,).

  d is the number of directions, or N or D where that is smaller; shares are of the
  variance.
  """
  count = min(directions, *features.shape)
  pca = PCA(count, svd_solver='randomized', iterated_power=4, random_state=0)
  points = pca.fit_transform(np.float32(features - features.mean(0)))
  return np.float64(points), pca.explained_variance_ratio_


def sample(labels: np.ndarray, count: int, seed: int, least: int = 0) -> np.ndarray:
  """Returns indices of `count` examples of labels (N,), each class in proportion.

  The first are `least` of each class, where it has them.
  """
  rng = np.random.default_rng(seed)
  _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
  order = np.lexsort((rng.random(len(classes)), classes))
  place = np.concatenate([np.arange(n) for n in counts])  # of each in its class
  turn = (place + rng.random(len(place))) / np.repeat(counts, counts)
  turn[place < least] = -1
  return order[np.argsort(turn)[:count]]


def drawn(
  features: np.ndarray, labels: np.ndarray, count: int, seed: int, least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Returns checked features and labels of `count` examples, where there are more.

  They are a `sample`.
  """
  features, labels = check_features(features, labels), np.asarray(labels)
  if len(features) <= count:
    return features, labels
  chosen = sample(labels, count, seed, least)
  return features[chosen], labels[chosen]
