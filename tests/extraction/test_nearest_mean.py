"""The distances one by one, and scikit-learn's NearestCentroid, are the oracles."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from tljax.extraction import nearest_mean


def class_means(features, labels):
  return np.stack([np.float64(features[labels == k]).mean(0) for k in range(10)])


@pytest.mark.filterwarnings('ignore:self.within_class_std_dev_')
def test_euclidean(pixels):
  features, labels = pixels
  train, test = features[::2], features[1::2]
  head = nearest_mean.fit(train, labels[::2], 10)
  means = class_means(train, labels[::2])
  differences = test[:, None] - means[None]
  shared = np.sum((test - train.mean(0)) ** 2, 1)
  wanted = shared[:, None] - np.sum(differences**2, -1)
  np.testing.assert_allclose(head.logits(test), wanted, rtol=1e-4, atol=0.05)
  theirs = NearestCentroid().fit(train, labels[::2]).predict(test)
  np.testing.assert_array_equal(head.logits(test).argmax(-1), theirs)


def test_cosine(pixels):
  features, labels = pixels
  train, test = features[::2], features[1::2]
  head = nearest_mean.fit(train, labels[::2], 10, metric='cosine')
  units = train / np.linalg.norm(train, axis=1, keepdims=True)
  means = class_means(units, labels[::2])
  wanted = test @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
  np.testing.assert_allclose(head.logits(test), wanted, rtol=1e-4)


def test_rows_of_zeros_have_no_direction():
  """One of class 0, all of class 1; those of class 2 cancel out."""
  features = np.float32([[0, 0], [3, 4], [0, 1], [0, 0], [2, 0], [-1, 0], [1, 1]])
  labels = np.array([0, 0, 0, 1, 2, 2, 3])
  head = nearest_mean.fit(features, labels, 4, metric='cosine')
  mean = np.array([0.2, 0.6])  # of 0, 0; 0.6, 0.8; and 0, 1
  wanted = [mean / np.sqrt(0.4), [0, 0], [0, 0], [np.sqrt(0.5)] * 2]
  np.testing.assert_allclose(head.logits(np.eye(2, dtype=np.float32)).T, wanted)


@pytest.mark.parametrize('metric', ['euclidean', 'cosine'])
def test_a_class_without_examples_is_never_the_nearest(pixels, metric):
  kept = pixels[1] < 3
  features, labels = pixels[0][kept], pixels[1][kept]
  wanted = nearest_mean.fit(features, labels, 3, metric=metric).logits(features)
  got = nearest_mean.fit(features, labels + (labels > 0), 5, metric=metric)
  got = got.logits(features)
  np.testing.assert_array_equal(got[:, [0, 2, 3]], wanted)
  np.testing.assert_array_equal(got[:, [1, 4]], np.float32(-1e30))
