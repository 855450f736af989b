"""Fine-tuning: a labelled target set and, as a rule, pretrained variables.

`labels.py` says what trains, `tljax.optimizers` at what rate, `summary.py` shows both;
`ema.py` averages any method's weights and `soups.py` trained networks. Shared are
`regularized.py`, `source_head.py`, `wrapped.py` and `adapted.py`. Every other file is
one method. Every step takes `{'image', 'label'}`.
"""

import sys

from tljax import discovery
from tljax.method import Method


def names() -> list[str]:
  """Names of the methods, sorted."""
  return discovery.method_names(sys.modules[__name__])


def create(name: str, model, optimizer, **options) -> Method:
  """Returns the method `name`; the options are its constructor's."""
  return discovery.create_method(
    sys.modules[__name__], name, model, optimizer, **options
  )


def defaults(name: str) -> dict:
  """The default of every option of the method `name`."""
  return discovery.method_defaults(sys.modules[__name__], name)
