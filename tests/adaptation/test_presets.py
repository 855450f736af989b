import math

import numpy as np
import pytest

from tljax.adaptation import presets


@pytest.mark.parametrize(
  ('name', 'strength', 'peak', 'source_steps'),
  [
    ('mdd', None, 0.1, None),  # its own schedule's
    ('mdd', 0.5, 0.5, None),
    ('mcc', None, None, None),  # its own number, as it is
    ('mcc', 2.0, 2.0, None),
    ('shot', None, None, 20),
    ('tent', None, None, 20),
  ],
)
def test_each_method_is_given_its_options(name, strength, peak, source_steps):
  options = presets.options(name, 40, strength)
  wanted = {'strength': peak, 'source_steps': source_steps}
  assert options.keys() == {k for k, v in wanted.items() if v is not None}
  assert options.get('source_steps') == source_steps
  if peak:
    got = [options['strength'](step) for step in (0, 20, 10**6)]
    half = 2 / (1 + math.exp(-5)) - 1
    np.testing.assert_allclose(got, [0, half * peak, peak], rtol=1e-5)
