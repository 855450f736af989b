"""Methods for a run whose length is known: schedules end where it ends.

`LIBRARY` has the settings of the published tables of Transfer-Learning-Library (Jiang
et al., 2022, and its scripts), those of Office-31 where they differ; the constructors'
own defaults are the papers'. Not among them: PADA's weights of its last 500 steps by
a sharper softmax, IWAN's 4.5 times the loss of what weighs examples, MCD's bottleneck
in either head, and the student's deployment and colours of self-ensembling.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import optax

from tljax import adaptation, discovery, optimizers
from tljax.adaptation import adversarial
from tljax.errors import InputError
from tljax.losses import Loss
from tljax.method import Method


class Settings(NamedTuple):
  """Of one method in the published tables.

  Attributes:
    rate: at the first step.
    weight_decay: of all parameters.
    decays: D, where the rate ends at (1 + D)^-0.75 of the first: the library's gamma
      times its steps.
    optimizer: SGD with Nesterov momentum 0.9; with momentum above the backbone alone,
      which moves at the full rate then; or Adam.
    options: of the method.
    strength: peak of its ramp, where it is another than the method's own.
    width: of the bottleneck.
    target_batches: how many times as many images of the target as of the source.
  """

  rate: float = 0.01
  weight_decay: float = 1e-3
  decays: float = 20.0
  optimizer: Literal['nesterov', 'momentum', 'adam'] = 'nesterov'
  options: Mapping[str, Any] = {}
  strength: float | None = None
  width: int = 256
  target_batches: int = 1


LIBRARY = {
  'adda': Settings(0.001, decays=6.0, strength=2.0),
  'afn': Settings(
    0.001, 5e-4, 0.0, 'momentum', {'delta': 1.0, 'entropy': 0.1}, width=1000
  ),
  'bsp': Settings(0.003, options={'penalty': 2e-4}),
  'cdan': Settings(),
  'dan': Settings(0.003, 5e-4, decays=3.0),
  'dann': Settings(),
  'fixmatch': Settings(0.001, decays=8.0, options={'threshold': 0.9}, target_batches=3),
  'iwan': Settings(0.001, decays=10.0, strength=3.0),
  'jan': Settings(0.003, 5e-4, decays=3.0),
  'mcc': Settings(0.005, options={'temperature': 2.5}, width=1024),
  'mcd': Settings(0.001, 5e-4, 0.0, 'momentum', {'balance': 0.01}, width=1024),
  'mdd': Settings(0.004, 5e-4, decays=4.0, options={'margin': 4.0}, width=1024),
  'mean_teacher': Settings(1e-4, 0.0, 10.0, 'adam', {'threshold': 0.8}),
  'osbp': Settings(0.001, 5e-4, decays=3.0),
  'pada': Settings(0.002),
}
# Its gradient reversal is at 2 / (1 + exp(-t / 1000)) - 1 after t of 20,000 steps.
_GAMMA = 20.0


def is_published(name: str) -> bool:
  """Whether the library has a method, or the first part of a sum."""
  return _first(name) in LIBRARY


def library_settings(name: str) -> Settings:
  """Returns the library's settings: a sum's are its first part's.

  A method, or a baseline, that it has not gets DANN's.
  """
  return LIBRARY.get(_first(name), Settings())


def _first(name):
  return discovery.split_options(name.split('+')[0])[0]


def library_optimizer(
  name: str, steps: int, backbone_rate: float = 1.0
) -> optax.GradientTransformation:
  """Returns what the library moves all parameters by, in a run of so many steps.

  Args:
    name: of the method, see `library_settings`.
    steps: of the run, at whose end the rate is as low as at the end of the library's.
    backbone_rate: factor of the backbone's rate; the library's is 0.1 where the
      backbone is pretrained.
  """
  settings = library_settings(name)
  gamma = settings.decays / steps
  rate = optax.scale_by_learning_rate(
    optimizers.inverse_decay(settings.rate, gamma=gamma)
  )
  moves = {
    'nesterov': optax.trace(0.9, nesterov=True),
    'momentum': optax.masked(optax.trace(0.9), _above_the_backbone),
    'adam': optax.scale_by_adam(),
  }[settings.optimizer]
  if settings.optimizer == 'momentum':
    backbone_rate = 1.0
  return optax.chain(
    optax.add_decayed_weights(settings.weight_decay),
    moves,
    rate,
    optimizers.backbone_rate(backbone_rate),
  )


def _above_the_backbone(params):
  return {part: part != 'backbone' for part in params}


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
    name: see `adaptation.create`; each part may have options that differ from its own,
      such as 'cdan:entropy=True+mcc:temperature=2,strength=0.5'.
    model: outputs by endpoint.
    optimizer: moves all parameters.
    steps: of the run.
    strength: peak of the method's strength; see `options`.
    task_loss: of a regression.
    domains: of the source.
    library: whether to take the options and ramps of `LIBRARY`.
  """
  gamma, given = {'gamma': _GAMMA} if library else {}, {}
  for text in name.split('+'):
    part, texts = discovery.split_options(text)
    if part in given:
      raise InputError(f'method {name!r} has {part} twice; name it once')
    settings = library_settings(part) if library else Settings()
    published = dict(settings.options)
    if library and part == 'mean_teacher':
      published |= _self_ensembling(model.head.num_classes)
    own = discovery.parse_options(texts, _own_options(part))
    peak = settings.strength if strength is None else strength
    peak = own.pop('strength', peak)
    fitted = options(part, steps, peak, task_loss, domains, **gamma)
    given[part] = published | fitted | own
  names, by_part = '+'.join(given), given if len(given) > 1 else given[part]
  return adaptation.create(names, model, optimizer, **by_part)


def _own_options(name):
  """Defaults of what a user may choose, its strength as the number it ends at."""
  defaults = adaptation.defaults(name)
  if callable(strength := defaults.get('strength')):
    defaults['strength'] = float(strength(math.inf))
  return defaults


def _self_ensembling(classes):
  """3 x the squares + 0.01 x the cross-entropies.

  Over classes the library sums the squares and takes the others' mean; French et al.
  have it the other way round.
  """
  return {'strength': 3.0 * classes, 'balance': 0.01 / (3.0 * classes**2)}


def options(
  name: str,
  steps: int,
  strength: float | None,
  task_loss: Loss | None = None,
  domains: int = 1,
  gamma: float = 10.0,
) -> dict:
  """What a method, or a part of a sum, is given for a run of so many steps.

  That is its own strength where it is a number, else a ramp by `gamma` to the end of
  its schedule or to `strength`; half of the steps for the first of two phases; the
  number of domains and the loss of a regression.

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
    given['strength'] = adversarial.ramp(steps, gamma=gamma, peak=float(peak))
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
