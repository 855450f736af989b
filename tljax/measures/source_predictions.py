"""How well a pretrained classifier's predictions tell a target's labels.

All are mean log-likelihoods, in nats: 0 where a prediction settles the label, and less.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from tljax.errors import InputError
from tljax.measures.labelled import check, drawn, one_hot, principal


def nce(source_labels: np.ndarray, labels: np.ndarray) -> float:
  """Minus the entropy of the labels, given the source's (Tran et al., 2019).

  Args:
    source_labels: (N,) integer, such as the pretrained classifier's predictions.
    labels: (N,) integer, of the target.

  Raises:
    InputError: they are not as many, or the labels are all one.
  """
  return leep(one_hot(source_labels), labels)  # of predictions that have no doubt


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """LEEP: log expected empirical prediction (Nguyen et al., 2020, equation 2).

  The likelihood of the labels y by the sum over z of p(y | z) p(z | x), where z are the
  source's classes and p(y | z) is counted on the same examples.

  Args:
    probabilities: (N, Z) float, p(z | x) of the pretrained classifier.
    labels: (N,) integer.

  Raises:
    InputError: they are not as many, or no probabilities; or the labels are all one.
  """
  probabilities = check(probabilities, labels)
  if probabilities.min() < 0 or not np.allclose(probabilities.sum(-1), 1, atol=1e-3):
    raise InputError('predictions are no probabilities; take the softmax of logits')
  indicators = one_hot(labels)
  joint = indicators.T @ probabilities
  total = joint.sum(0)
  conditional = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
  # Never 0: the example itself has been counted.
  likelihood = np.sum(probabilities * (indicators @ conditional), -1)
  return float(np.mean(np.log(likelihood)))


def n_leep(
  features: np.ndarray,
  labels: np.ndarray,
  *,
  variance: float = 0.8,
  directions: int = 64,
  components: int = 5,
  examples: int = 2000,
  seed: int = 0,
) -> float:
  """N-LEEP: LEEP of the clusters that features fall into (Li et al., 2021).

  They are the components of a mixture of Gaussians, of any covariances, fitted to the
  principal components of the features, for networks that have no classifier.

  Args:
    features: (N, D) float.
    labels: (N,) integer.
    variance: share of it that the principal components keep; the authors'.
    directions: the most of them, for time's sake; the authors have no limit.
    components: of the mixture, for each class; at most a fifth of the examples.
    examples: drawn where there are more.
    seed: draws them, and is that of the mixture's start.

  Raises:
    InputError: see `labelled.check_features`.
  """
  features, labels = drawn(features, labels, examples, seed)
  points, shares = principal(features, directions)
  points = points[:, : 1 + np.searchsorted(np.cumsum(shares), variance)]
  most = max(2, len(labels) // 5)
  count = min(components * len(np.unique(labels)), most)
  mixture = GaussianMixture(count, random_state=seed)
  with warnings.catch_warnings():  # further steps would change little
    warnings.simplefilter('ignore', ConvergenceWarning)
    mixture.fit(points)
  return leep(mixture.predict_proba(points), labels)
