"""scikit-learn's optimum is the oracle, on real digits and in float64."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from tljax.extraction import logistic
from tljax.extraction.head import standardized


def objective(kernel, bias, features, labels, C):
  """scikit-learn's, over C * N, in float64."""
  logits = np.float64(features) @ np.float64(kernel) + np.float64(bias)
  if labels.ndim == 2:
    losses = np.sum(np.logaddexp(0, logits) - labels * logits, -1)
  elif logits.shape[1] == 1:
    losses = np.logaddexp(0, logits[:, 0]) - labels * logits[:, 0]
  else:
    rows = np.arange(len(labels))
    losses = np.logaddexp.reduce(logits, -1) - logits[rows, labels]
  return losses.mean() + np.sum(np.float64(kernel) ** 2) / (2 * C * len(features))


def weights(head):
  return head.variables['params']['classifier'].values()


@pytest.mark.parametrize(
  ('C', 'scale'),
  [
    (1e-3, 1.0),
    (1.0, 1 / 16),
    pytest.param(100.0, 1 / 16, marks=pytest.mark.slow),
    pytest.param(1.0, 1.0, marks=pytest.mark.slow),
    pytest.param(100.0, 1.0, marks=pytest.mark.slow),
  ],
)
def test_the_multinomial_optimum(pixels, C, scale):
  features, labels = pixels[0] * np.float32(scale), pixels[1]
  theirs = LogisticRegression(C=C, max_iter=5000, tol=1e-6).fit(
    np.float64(features), labels
  )
  best = objective(theirs.coef_.T, theirs.intercept_, features, labels, C)
  head = logistic.fit(features, labels, 10, C=C)
  ours = objective(*weights(head), features, labels, C)
  assert ours <= best + 1e-6 + 1e-4 * best
  wanted = theirs.predict_proba(np.float64(features))
  logits = np.float64(head.logits(features))
  logits -= np.logaddexp.reduce(logits, -1, keepdims=True)
  np.testing.assert_allclose(np.exp(logits), wanted, atol=2e-3)


def test_two_classes_are_penalised_as_a_binary_regression(pixels):
  features, labels = (array[pixels[1] < 2] for array in pixels)
  features += np.random.default_rng(0).normal(0, 8, features.shape).astype(np.float32)
  theirs = LogisticRegression(C=0.01, max_iter=5000, tol=1e-8)
  theirs.fit(np.float64(features), labels)
  kernel, bias = weights(logistic.fit(features, labels, 2, C=0.01))
  np.testing.assert_allclose(
    kernel[:, 1] - kernel[:, 0], theirs.coef_[0], rtol=1e-3, atol=1e-5
  )
  np.testing.assert_allclose(bias[1] - bias[0], theirs.intercept_[0], rtol=1e-3)


def test_several_labels_are_one_regression_each(pixels):
  features, digit = pixels
  labels = np.stack([digit % 2 == 0, digit < 5, digit == 0], 1).astype(np.int32)
  single = LogisticRegression(C=0.01, max_iter=5000, tol=1e-6)
  theirs = OneVsRestClassifier(single).fit(np.float64(features), labels)
  best = sum(
    objective(e.coef_.T, e.intercept_, features, labels[:, i], 0.01)
    for i, e in enumerate(theirs.estimators_)
  )
  head = logistic.fit(features, labels, 3, C=0.01)
  assert objective(*weights(head), features, labels, 0.01) <= best * (1 + 1e-4)
  found = 1 / (1 + np.exp(-head.logits(features)))
  np.testing.assert_allclose(found, theirs.predict_proba(features), atol=1e-3)


def test_features_are_scaled_whatever_their_mean(monkeypatch):
  """Whose sum over so many examples float32 rounds off."""
  minimize, seen = logistic._minimize, []

  def spy(features, *args):
    seen.append(np.asarray(features))
    return minimize(features, *args)

  monkeypatch.setattr(logistic, '_minimize', spy)
  rng = np.random.default_rng(0)
  features = np.float32(1000.2 + rng.normal(0, 0.01, (20000, 2)))
  logistic.fit(features, np.arange(20000, dtype=np.int32) % 2, 2, max_iterations=1)
  np.testing.assert_allclose(np.mean(seen, 1, float), 0, atol=0.02)
  np.testing.assert_allclose(np.std(seen, 1, dtype=float), 1, rtol=0.01)


def test_standardised_features_are_folded_back(pixels):
  features, labels = pixels[0] * np.float32(0.125) + np.float32(3), pixels[1]
  mean, std = np.mean(features, 0, float), np.std(features, 0, dtype=float)
  constant = std == 0
  assert constant.any()
  scaled = np.float32(np.where(constant, 0, (features - mean) / (std + constant)))
  head = standardized(logistic.fit)(features, labels, 10, C=0.01)
  plain = logistic.fit(scaled, labels, 10, C=0.01)
  wanted = plain.logits(scaled)
  np.testing.assert_allclose(head.logits(features), wanted, atol=2e-3)
  assert not head.variables['params']['classifier']['kernel'][constant].any()
