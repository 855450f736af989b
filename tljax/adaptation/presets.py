"""Methods for a run whose length is known: schedules end where it ends.

`LIBRARY` has the settings of the published tables of Transfer-Learning-Library (Jiang
et al., 2022, and its scripts); the constructors' own defaults are the papers'.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from tljax import adaptation, optimizers
from tljax.adaptation import adversarial
from tljax.errors import InputError
from tljax.losses import Loss
from tljax.method import Method


class Settings(NamedTuple):
  """Of one method in the published tables.

  Attributes:
    rate: of SGD with Nesterov momentum 0.9, at the first step.
    weight_decay: of all parameters.
    options: of the method.
    width: of the bottleneck.
  """

  rate: float = 0.01
  weight_decay: float = 1e-3
  options: Mapping[str, Any] = {}
  width: int = 256


LIBRARY = {
  'adda': Settings(rate=0.001),
  'afn': Settings(0.001, 5e-4, {'delta': 1.0, 'entropy': 0.1}, width=1000),
  'bsp': Settings(rate=0.003, options={'penalty': 2e-4}),
  'cdan': Settings(),
  'dan': Settings(0.003, 5e-4),
  'dann': Settings(),
  'fixmatch': Settings(rate=0.003, options={'threshold': 0.9}),
  'jan': Settings(0.003, 5e-4),
  'mcc': Settings(rate=0.005, options={'temperature': 2.5}, width=1024),
  'mcd': Settings(0.001, 5e-4, {'generator_steps': 4}, width=1024),
  'mdd': Settings(0.004, 5e-4, {'margin': 4.0}, width=1024),
}
_DECAYS = 20.0  # its 20 epochs are 20,000 steps, and the rate falls by 0.001 a step


def library_settings(name: str) -> Settings:
  """Returns the library's settings: a sum's are its first part's.

  A method, or a baseline, that it has not gets DANN's.
  """
  return LIBRARY.get(name.split('+')[0], Settings())


def library_optimizer(
  name: str, steps: int, backbone_rate: float = 1.0
) -> optax.GradientTransformation:
  """Returns what the library moves all parameters by, in a run of so many steps.

  Args:
    name: of the method, see `library_settings`.
    steps: of the run; over it the rate falls to a tenth of the first.
    backbone_rate: factor of the backbone's rate; the library's is 0.1 where the
      backbone is pretrained.
  """
  settings = library_settings(name)
  schedule = optimizers.inverse_decay(settings.rate, gamma=_DECAYS / steps)
  return optax.chain(
    optax.add_decayed_weights(settings.weight_decay),
    optax.sgd(schedule, momentum=0.9, nesterov=True),
    optimizers.backbone_rate(backbone_rate),
  )


def build(
  name: str,
  model,
  optimizer: optax.GradientTransformation,
  steps: int,
  strength: float | None = None,
  task_loss: Loss | None = None,
  domains: int = 1,
  library: bool = False,
) -> Method:
  """Returns the method `name`, or a sum of methods, for a run of so many steps.

  Args:
    name: see `adaptation.create`.
    model: outputs by endpoint.
    optimizer: moves all parameters.
    steps: of the run.
    strength: peak of the method's strength; see `options`.
    task_loss: of a regression.
    domains: of the source.
    library: whether to take the options that `LIBRARY` has.
  """
  parts = name.split('+')
  given = {p: options(p, steps, strength, task_loss, domains) for p in parts}
  for part in parts if library else ():
    given[part] |= library_settings(part).options
  given = given[name] if len(parts) == 1 else given
  return adaptation.create(name, model, optimizer, **given)


def options(
  name: str,
  steps: int,
  strength: float | None,
  task_loss: Loss | None = None,
  domains: int = 1,
) -> dict:
  """What a method, or a part of a sum, is given for a run of so many steps.

  That is its own strength where it is a number, else a ramp to the end of its schedule
  or to `strength`; half of the steps for the first of two phases; the number of domains
  and the loss of a regression.

  Raises:
    InputError: there is no such method, it has no strength to set, or it tells classes
      apart and there is a loss of a regression.
  """
  defaults, given = adaptation.defaults(name), {}
  own = defaults.get('strength')
  if strength is not None and own is None:
    raise InputError(f'--method {name} has no strength; leave --strength out')
  if strength is not None or callable(own):
    peak = own(math.inf) if strength is None else strength
    given['strength'] = adversarial.ramp(steps, peak=float(peak))
  if 'domains' in defaults:
    given['domains'] = domains
  if 'source_steps' in defaults:
    given['source_steps'] = steps // 2
  if task_loss is not None:
    if 'task_loss' not in defaults:
      able = [m for m in adaptation.names() if 'task_loss' in adaptation.defaults(m)]
      raise InputError(
        f'--method {name} tells classes apart and the sets have targets of a '
        f'regression; choose one of {", ".join(able)}'
      )
    given['task_loss'] = task_loss
  return given
