"""scikit-learn's RidgeCV, and fits without each example, are the oracles."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from tljax.errors import InputError
from tljax.extraction import ridge

LAMBDAS = (1e-3, 0.1, 1.0, 10.0, 1e3)


def weights(head):
  return head.variables['params']['classifier'].values()


def drawn(rows, columns, targets=2):
  rng = np.random.default_rng(rows)
  x = rng.normal(size=(rows, columns)) * np.geomspace(0.1, 10, columns) + 3
  y = x @ rng.normal(size=(columns, targets)) + rng.normal(size=(rows, targets)) - 7
  return np.float32(x), np.float32(y)


@pytest.mark.parametrize(('rows', 'columns'), [(30, 4), (9, 20), (8, 7)])
def test_the_error_is_that_of_fits_without_the_example(rows, columns):
  x, y = drawn(rows, columns)
  x64, y64 = np.float64(x), np.float64(y)
  wanted = []
  for strength in LAMBDAS:
    squares = []
    for i in range(rows):
      kept = np.arange(rows) != i
      left_out = Ridge(alpha=strength, solver='svd').fit(x64[kept], y64[kept])
      squares.append((left_out.predict(x64[[i]])[0] - y64[i]) ** 2)
    wanted.append(np.mean(squares))
  got = ridge.regress(x, y, LAMBDAS)
  np.testing.assert_allclose(got.errors, wanted, rtol=1e-6)
  assert got.strength == LAMBDAS[int(np.argmin(wanted))]
  whole = Ridge(alpha=got.strength, solver='svd').fit(x64, y64)
  kernel, bias = weights(got.head)
  np.testing.assert_allclose(kernel, whole.coef_.T, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(bias, whole.intercept_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('examples', 'columns'), [(12, 4), (5, 30)])
def test_views_of_an_example_are_left_out_together(examples, columns):
  x, y = drawn(examples, columns)
  rng = np.random.default_rng(0)
  x = np.concatenate([x + np.float32(s * rng.normal(size=x.shape)) for s in (0, 1, 2)])
  y = np.tile(y, (3, 1))
  example, wanted = np.tile(np.arange(examples), 3), []
  for strength in LAMBDAS:
    model = Ridge(alpha=strength, solver='svd')
    options = {'groups': example, 'cv': LeaveOneGroupOut()}
    predicted = cross_val_predict(model, np.float64(x), np.float64(y), **options)
    wanted.append(np.mean((predicted - y) ** 2))
  got = ridge.regress(x, y, LAMBDAS, views=3)
  np.testing.assert_allclose(got.errors, wanted, rtol=1e-6)
  best = ridge.fit(x, y, lambdas=LAMBDAS, views=3).logits(x)
  np.testing.assert_array_equal(best, got.head.logits(x))


def test_it_is_ridgecv_on_the_quality_of_wine(shared_data):
  path = shared_data / 'wine_quality' / 'winequality-red.csv'
  table = np.loadtxt(path, delimiter=',', skiprows=1, dtype=np.float32)
  x, y = (table[:, :-1] - table[:, :-1].mean(0)) / table[:, :-1].std(0), table[:, -1]
  train, test = slice(0, None, 2), slice(1, None, 2)
  lambdas = np.logspace(-2, 4, 13)
  theirs = RidgeCV(lambdas, store_cv_results=True).fit(
    np.float64(x[train]), np.float64(y[train])
  )
  ours = ridge.regress(x[train], y[train], lambdas)
  np.testing.assert_allclose(ours.errors, theirs.cv_results_.mean(0), rtol=1e-6)
  assert ours.strength == theirs.alpha_
  predicted = ours.head.logits(x[test])
  assert predicted.shape == (len(y[test]), 1)
  np.testing.assert_allclose(predicted[:, 0], theirs.predict(x[test]), rtol=1e-4)
  residual = np.sum((predicted[:, 0] - y[test]) ** 2)
  assert 1 - residual / np.sum((y[test] - y[test].mean()) ** 2) > 0.3


def test_classes_are_ridge_classification(pixels):
  features, labels = pixels
  head = ridge.fit(features[::2], labels[::2], 10, lambdas=(100.0,))
  theirs = RidgeClassifier(alpha=100.0).fit(np.float64(features[::2]), labels[::2])
  wanted = theirs.decision_function(features[1::2])
  np.testing.assert_allclose(head.logits(features[1::2]), wanted, atol=1e-4)


@pytest.mark.parametrize('views', [1, 2])
def test_of_features_that_do_not_vary_it_is_the_mean(views):
  y = np.float32([1, 2, 6, 7])
  head = ridge.fit(np.ones((4, 3), np.float32), y, views=views)
  np.testing.assert_allclose(head.logits(np.eye(3, dtype=np.float32)), 4, rtol=1e-6)


@pytest.mark.parametrize('views', [1, 2])
def test_one_example_is_refused(views):
  x, y = drawn(views, 3)
  with pytest.raises(InputError, match='leaves out one example of 1; give 2'):
    ridge.regress(x, y, views=views)
