"""What a gap calls for, by facts of either kind."""

import numpy as np
import pytest

from tljax.adaptation import advice
from tljax.measures.gap import Parts

SHARES = {'source': np.array([0.5, 0.5]), 'target': np.array([0.9, 0.1])}


@pytest.mark.parametrize(
  ('p_value', 'parts', 'certainty', 'words'),
  [
    (0.4, (0.1, 0.1, 0.1), 0.9, 'nothing to adapt to'),
    (0.01, (0.1, 0.02, 0.01), 0.9, "'cat' is more, 'dog' less"),
    (0.01, (0.1, 0.09, 0.01), 0.9, 'It is mostly style'),
    (0.01, (0.1, np.nan, 0.01), 0.9, 'explain a part that so few examples leave open'),
    (0.01, (0.1, np.nan, 0.01), 0.9, 'It is mostly style'),
    (0.01, (0.1, 0.09, 0.08), 0.9, 'mcc or shot'),
    (0.01, (0.1, 0.09, 0.08), 0.1, 'for later'),
  ],
)
def test_advice(p_value, parts, certainty, words):
  facts = advice.Facts(p_value, 1.5, Parts(*parts), certainty, SHARES)
  assert words in advice.advise(facts, ('cat', 'dog'))


def test_certainty_at_its_ends():
  sure = 50 * np.eye(3)
  assert advice.certainty(sure) == pytest.approx(1)
  assert advice.certainty(np.zeros((4, 3))) == pytest.approx(0)
  assert advice.certainty(sure[[0, 0]]) == pytest.approx(0)  # one class for all
