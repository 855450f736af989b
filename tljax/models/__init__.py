"""Architectures by name. One file per family.

To add one: write `FAMILY.py` with its flax modules, `SPECS` (name to `Spec`) and
`create(name, num_classes, **options)`; it is found by itself.
"""

import importlib
import pkgutil

import flax.linen as nn

from tljax.errors import InputError
from tljax.models.base import Classifier as Classifier
from tljax.models.base import Linear as Linear
from tljax.models.base import Spec as Spec


def _families():
  modules = (importlib.import_module(m.name) for m in _modules())
  return [module for module in modules if hasattr(module, 'SPECS')]


def _modules():
  return pkgutil.iter_modules(__path__, prefix=f'{__name__}.')


def family(name: str):
  """Returns the module that defines the architecture `name`.

  Raises:
    InputError: there is none.
  """
  for module in _families():
    if name in module.SPECS:
      return module
  raise InputError(f'model {name!r} is unknown; choose one of {", ".join(names())}')


def names() -> list[str]:
  """Names of all architectures, sorted."""
  return sorted(name for module in _families() for name in module.SPECS)


def spec(name: str) -> Spec:
  """Returns what the model expects of its input and how it is made."""
  return family(name).SPECS[name]


def create(name: str, num_classes: int = 1000, **options) -> nn.Module:
  """Returns the model: `apply(variables, images, train=False)` gives its outputs.

  Among them are 'features' (N, D), pooled, and 'logits' (N, num_classes).
  """
  return family(name).create(name, num_classes, **options)
