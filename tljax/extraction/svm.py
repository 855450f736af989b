"""A linear support vector machine, one class against the rest: scikit-learn's."""

import numpy as np
from sklearn.svm import LinearSVC

from tljax.extraction.head import Head, linear


def fit(
  features: np.ndarray, labels: np.ndarray, num_classes: int, *, C: float = 1.0
) -> Head:
  """Minimises squared hinge losses (Fan et al., 2008); see `sklearn.svm.LinearSVC`.

  Args:
    features: (N, D) float32, best standardised.
    labels: (N,) integer in [0, K), of every class at least one.
    num_classes: K.
    C: inverse strength of the penalty.
  """
  dual = features.shape[1] > len(features)
  machine = LinearSVC(C=C, dual=dual, max_iter=10000, random_state=0)
  machine.fit(features, labels)
  kernel, bias = machine.coef_.T, machine.intercept_
  if num_classes == 2:  # one machine tells both apart
    kernel, bias = np.concatenate([-kernel, kernel], 1), np.concatenate([-bias, bias])
  return linear(kernel, bias)
