"""Architectures by name. One file per family.

To add one, with its weights:

1. Write `FAMILY.py` with its flax modules: NHWC, a stage a submodule, padding as the
   original has it (`layers.conv`), outputs by endpoint: the stages, 'map', 'features'.
2. `SPECS`: name to `Spec`, with the input that the weights expect and the stages.
3. `create(name, num_classes, **options)`: a `Classifier` of the backbone and a head
   whose last layer is called 'classifier'. `Options(**options)` has the common options.
4. `layouts(name)`: for each published format, rules from our paths to their names; see
   `layouts.py`. `weights.load` and `weights.export` read them.
5. `tests/models/test_FAMILY.py`: the original is the oracle, see `tests/oracles.py`.
6. A line a published file in `weights/registry.csv`.

It is found by itself; resnet.py is a good one to copy.
"""

import importlib
import pkgutil

from tljax.errors import InputError
from tljax.models.base import Classifier as Classifier
from tljax.models.base import Cosine as Cosine
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


def create(
  name: str, num_classes: int = 1000, *, in_channels: int = 3, **options
) -> Classifier:
  """Returns the model: `apply(variables, images, train=False)` gives its outputs.

  Among them are the stages, 'features' (N, D), pooled, and 'logits' (N, num_classes).

  Args:
    name: see `names`.
    num_classes: K.
    in_channels: of the images, where they are not RGB.
    **options: see `base.Options`, and the family's own.

  Raises:
    InputError: there is no such model, it has no such option, or there is no class.
  """
  if num_classes < 1:
    raise InputError(
      f"num_classes={num_classes}: choose 1 or more; the method 'embed' needs no head"
    )
  try:
    model = family(name).create(name, num_classes, **options)
  except TypeError as error:
    if not options:
      raise
    raise InputError(f'{name}, options {sorted(options)}: {error}') from error
  if in_channels == 3:
    return model
  return model.clone(spec=model.spec.with_channels(in_channels))
