"""Nearest class mean: a linear head without training."""

from typing import Literal

import numpy as np
from sklearn.preprocessing import normalize

from tljax.extraction.head import Head, linear_of_seen

Metric = Literal['euclidean', 'cosine']


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  metric: Metric = 'euclidean',
) -> Head:
  """Logits are the similarities to each class' mean, up to what classes share.

  (Mensink et al., 2013, equation 3; Snell et al., 2017, equation 8.) Euclidean: minus
  the squared distance, plus |x - m|^2, which leaves a linear function of x; m is the
  mean of all. Cosine: times |x|; a row of zeros, as a ReLU may leave it, stays zero.

  Args:
    features: (N, D) float.
    labels: (N,) integer in [0, K).
    num_classes: K; one without examples is never the nearest.
    metric: how near.
  """
  seen = np.unique(labels)
  rows = [np.float64(features[labels == k]) for k in seen]
  if metric == 'cosine':
    means = normalize(np.stack([normalize(x).mean(0) for x in rows]))
    return linear_of_seen(means.T, np.zeros(len(seen)), seen, num_classes)
  means = np.stack([x.mean(0) for x in rows])
  centre = np.float64(features).mean(0)
  offsets = means - centre
  bias = -2 * offsets @ centre - np.sum(offsets**2, 1)
  return linear_of_seen(2 * offsets.T, bias, seen, num_classes)
