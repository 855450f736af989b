"""What the readers' tests assert of a file."""

import numpy as np
import pytest

from tljax.errors import InputError
from tljax.weights import readers


def refused(path, match):
  """Asserts that a file is refused in one line that names it."""
  with pytest.raises(InputError, match=match) as error:
    dict(readers.read(path))
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def assert_equal(ours, theirs):
  """Asserts the same names, shapes, dtypes and values."""
  assert set(ours) == set(theirs)
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, strict=True)
