"""Domain adaptation: labelled source, unlabelled target. One file per method.

Every step takes `{'source': {'image', 'label'}, 'target': {'image'}}`: a target label
is not there to leak. Methods that add a loss take 'labelled': {'image', 'label'} beside
them, the few examples of the target whose labels are known; a source of several domains
has 'domain' too. Shared are `alignment.py` (a loss of both domains, and sums of such),
`adversarial.py`, `phases.py` (first the source, then the target), `pseudo.py`
(pseudo-labels) and `sources.py` (several source domains, and generalisation, which
looks at no target); `presets.py` fits schedules to the length of a run, also by the
published settings of `published.py` (`settings.py`, `library.py`, `papers.py`).
"""

import sys

from tljax import discovery
from tljax.adaptation import alignment
from tljax.errors import InputError
from tljax.method import Method


def names() -> list[str]:
  """Names of the methods, sorted."""
  return discovery.method_names(sys.modules[__name__])


def create(name: str, model, optimizer, **options) -> Method:
  """Returns the method `name`; the options are its constructor's.

  'cdan+mcc' is the sum of what the two add to the source's cross-entropy; its options
  are dicts, by part: `cdan={'strength': 0.5}`.

  Raises:
    InputError: there is no such method, or one that is no term of a sum.
    TypeError: there is no such option.
  """
  parts = name.split('+')
  if len(parts) == 1:
    return _create(name, model, optimizer, options)
  for option in options.keys() - set(parts):
    raise TypeError(f'{name!r} takes options by part, as dicts; {option!r} is no part')
  methods = []
  for part in parts:
    methods.append(_create(part, model, optimizer, options.get(part, {})))
    if not isinstance(methods[-1], alignment.Aligned):
      raise InputError(
        f'method {part!r} does more than add a loss: it is no part of {name!r}; '
        'use it alone'
      )
    model, optimizer = methods[-1].term.model, methods[-1].term.optimizer
  return alignment.compose(methods)


def defaults(name: str) -> dict:
  """The default of every option of the method `name`."""
  return discovery.method_defaults(sys.modules[__name__], name)


def _create(name, model, optimizer, options):
  module = sys.modules[__name__]
  return discovery.create_method(module, name, model, optimizer, **options)
