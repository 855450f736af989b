"""A linear support vector machine, one class against the rest: scikit-learn's."""

import numpy as np
from sklearn.svm import LinearSVC

from tljax.errors import InputError
from tljax.extraction.head import Head, linear_of_seen


def fit(
  features: np.ndarray, labels: np.ndarray, num_classes: int, *, C: float = 1.0
) -> Head:
  """Minimises squared hinge losses (Fan et al., 2008); see `sklearn.svm.LinearSVC`.

  Args:
    features: (N, D) float32, best standardised.
    labels: (N,) integer in [0, K).
    num_classes: K; one without examples is never predicted.
    C: inverse strength of the penalty.

  Raises:
    InputError: all examples are of one class.
  """
  seen = np.unique(labels)
  if len(seen) < 2:
    raise InputError('all training examples are of one class; give an SVM two or more')
  dual = features.shape[1] > len(features)
  machine = LinearSVC(C=C, dual=dual, max_iter=10000, random_state=0)
  machine.fit(features, labels)
  kernel, bias = machine.coef_.T, machine.intercept_
  if len(seen) == 2:  # one machine tells both apart
    kernel, bias = np.concatenate([-kernel, kernel], 1), np.concatenate([-bias, bias])
  return linear_of_seen(kernel, bias, seen, num_classes)
