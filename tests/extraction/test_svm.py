"""The head decides as scikit-learn's machine does."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from tljax.errors import InputError
from tljax.extraction import svm


@pytest.mark.parametrize('classes', [2, 10])
def test_it_decides_as_the_machine_does(pixels, classes):
  kept = pixels[1] < classes
  features, labels = pixels[0][kept] / np.float32(16), pixels[1][kept]
  logits = svm.fit(features, labels, classes, C=0.1).logits(features)
  machine = LinearSVC(C=0.1, dual=False, random_state=0).fit(features, labels)
  wanted = machine.decision_function(features)
  if classes == 2:
    wanted = np.stack([-wanted, wanted], 1)
  np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('classes', [2, 3])
def test_a_class_without_examples_is_never_predicted(pixels, classes):
  kept = pixels[1] < classes
  features, labels = pixels[0][kept] / np.float32(16), pixels[1][kept]
  wanted = svm.fit(features, labels, classes).logits(features)
  got = svm.fit(features, labels + (labels > 0), classes + 1).logits(features)
  np.testing.assert_array_equal(np.delete(got, 1, 1), wanted)
  np.testing.assert_array_equal(got[:, 1], np.float32(-1e30))


def test_one_class_alone_is_refused():
  with pytest.raises(InputError, match='all training examples are of one class'):
    svm.fit(np.eye(3, dtype=np.float32), np.ones(3, np.int32), 2)
