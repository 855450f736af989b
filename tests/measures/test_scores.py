import numpy as np
import pytest

from tljax.measures import scores

LOGITS = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [5, 9, 7, 8], [1, 1, 0, 0]])
LABELS = np.array([0, 2, 0, 1])


@pytest.mark.parametrize(('top', 'share'), [(1, 0.25), (2, 0.75), (3, 0.75), (4, 1)])
def test_accuracy_by_hand(top, share):
  """Ranks of the labels: 1, 2, 4, and 2 as a tie goes to the lower index."""
  assert scores.accuracy(LOGITS, LABELS, top=top) == share


def test_accuracy_is_a_plain_float_for_json():
  assert type(scores.accuracy(LOGITS, LABELS)) is float
