"""Domain adaptation: labelled source, unlabelled target. One file per method.

Every step takes `{'source': {'image', 'label'}, 'target': {'image'}}`: a target label
is not there to leak. `alignment.py` and `adversarial.py` are shared.
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
