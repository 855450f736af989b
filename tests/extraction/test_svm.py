"""The head decides as scikit-learn's machine does."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

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
