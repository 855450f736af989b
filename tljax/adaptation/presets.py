"""Methods for a run whose length is known: schedules end where it ends."""

import math

from tljax import adaptation
from tljax.adaptation import adversarial
from tljax.errors import InputError
from tljax.method import Method


def build(
  name: str, model, optimizer, steps: int, strength: float | None = None
) -> Method:
  """Returns the method `name`, or a sum of methods, for a run of so many steps.

  Args:
    name: see `adaptation.create`.
    model: outputs by endpoint.
    optimizer: moves all parameters.
    steps: of the run.
    strength: peak of the method's strength; see `options`.
  """
  parts = name.split('+')
  given = {part: options(part, steps, strength) for part in parts}
  given = given[name] if len(parts) == 1 else given
  return adaptation.create(name, model, optimizer, **given)


def options(name: str, steps: int, strength: float | None) -> dict:
  """What a method, or a part of a sum, is given for a run of so many steps.

  That is its own strength where it is a number, else a ramp to the end of its schedule
  or to `strength`; and half of the steps for the first of two phases.

  Raises:
    InputError: there is no such method, or it has no strength to set.
  """
  defaults, given = adaptation.defaults(name), {}
  own = defaults.get('strength')
  if strength is not None and own is None:
    raise InputError(f'--method {name} has no strength; leave --strength out')
  if strength is not None or callable(own):
    peak = own(math.inf) if strength is None else strength
    given['strength'] = adversarial.ramp(steps, peak=float(peak))
  if 'source_steps' in defaults:
    given['source_steps'] = steps // 2
  return given
