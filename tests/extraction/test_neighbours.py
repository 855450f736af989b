"""scikit-learn's neighbours are the oracle."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from tljax.extraction import neighbours
from tljax.extraction.features import extract
from tljax.extraction.head import join


@pytest.mark.parametrize('metric', ['euclidean', 'cosine'])
@pytest.mark.parametrize('k', [1, 5])
def test_shares_of_the_votes(pixels, metric, k):
  # Drawn, so that no two are as near: of whole numbers many are.
  noise = np.random.default_rng(0).normal(0, 0.3, pixels[0].shape)
  features, labels = np.float32(pixels[0] + noise), pixels[1]
  theirs = KNeighborsClassifier(k, metric=metric).fit(features[::2], labels[::2])
  head = neighbours.fit(features[::2], labels[::2], 10, k=k, metric=metric)
  wanted = theirs.predict_proba(features[1::2])
  np.testing.assert_allclose(head.logits(features[1::2]), wanted, atol=1e-6)


def test_far_from_the_origin_near_is_still_near(pixels):
  features = np.float32(pixels[0] / 100 + 30)
  head = neighbours.fit(features, pixels[1], 10, k=1)
  assert np.mean(head.logits(features).argmax(-1) == pixels[1]) == 1


@pytest.mark.parametrize('targets', [(), (3,)])
def test_a_regression_is_the_mean_of_the_targets(pixels, targets):
  rng = np.random.default_rng(0)
  features = np.float32(rng.normal(size=(60, 5)))
  values = np.float32(rng.normal(size=(60, *targets)))
  theirs = KNeighborsRegressor(4).fit(features[:40], values[:40])
  head = neighbours.fit(features[:40], values[:40], k=4)
  wanted = theirs.predict(features[40:]).reshape(20, -1)
  np.testing.assert_allclose(head.logits(features[40:]), wanted, rtol=1e-5)


def test_fewer_examples_than_neighbours_all_vote():
  head = neighbours.fit(np.eye(3, dtype=np.float32), np.int32([0, 1, 1]), 2)
  np.testing.assert_allclose(head.logits(np.ones((1, 3), np.float32)), [[1 / 3, 2 / 3]])


def test_it_joins_its_backbone(model, variables, domains):
  train, test = (domains['digits'][name] for name in ('train', 'test'))
  features = extract(model, variables, train.images)
  head = neighbours.fit(features, train.labels, 10)
  joined, together = join(model, variables, head)
  images = np.float32(test.images[:9] / 255)
  wanted = head.logits(extract(model, variables, test.images[:9]))
  logits = joined.apply(together, images)['logits']
  np.testing.assert_allclose(logits, wanted, atol=1e-6)
  drawn = joined.init(jax.random.key(0), images)
  assert jax.tree.map(np.shape, dict(drawn)) == jax.tree.map(np.shape, together)
