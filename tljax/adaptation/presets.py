"""Methods for a run whose length is known: schedules end where it ends.

By a preset they are as in published trainings, whose settings are in `published`. The
defaults of a method's constructor are its paper's, as far as the loss goes.
"""

import math
from typing import Literal, get_args

import optax

from tljax import adaptation, discovery, optimizers
from tljax.adaptation.published import PRESETS
from tljax.adaptation.settings import Settings, phase
from tljax.errors import InputError
from tljax.losses import Loss
from tljax.method import Method
from tljax.models.bottleneck import Activation, Bottleneck, Norm, activation_after

_OWN = Settings()
_NORMS, _ACTIVATIONS = get_args(Norm), get_args(Activation)


def has(preset: str, name: str) -> bool:
  """Whether a preset has settings of a method, or of the first part of a sum."""
  return _first(name) in PRESETS[_first(preset)]


def settings(preset: str, name: str) -> Settings:
  """Returns a preset's settings of a method; a sum's are its first part's.

  A method, or a baseline, that it has not gets DANN's, but for DANN's options.

  Args:
    preset: of `published.PRESETS`; a rate, weight_decay, backbone, width, norm or
      activation of one's own goes before, such as 'digits:rate=0.1'.
    name: of the method.

  Raises:
    InputError: there is no such preset, or it has no such setting.
  """
  label, texts = discovery.split_options(preset)
  if label not in PRESETS:
    raise InputError(f'preset {label!r} is unknown; choose one of {", ".join(PRESETS)}')
  table = PRESETS[label]
  found = table.get(_first(name), table['dann']._replace(options={}))
  known = {k: getattr(found, k) for k in ('rate', 'weight_decay', 'backbone', 'norm')}
  known['width'] = found.width or Bottleneck.width
  known['activation'] = found.activation or activation_after(found.norm)
  try:
    own = discovery.parse_options(texts, known)
  except InputError as error:
    raise InputError(f'preset {preset!r}: {error}') from error
  found = found._replace(**own)
  if not (found.rate > 0 and found.weight_decay >= 0 and found.backbone >= 0):
    raise InputError(f'preset {preset!r}: a rate is above 0, the others 0 or more')
  if own.get('width', 1) < 1 or found.norm not in _NORMS:
    raise InputError(f'preset {preset!r}: a width is 1 or more, a norm of {_NORMS}')
  if found.activation not in (None, *_ACTIVATIONS):
    raise InputError(f'preset {preset!r}: an activation is of {_ACTIVATIONS}')
  return found


def _first(name):
  return discovery.split_options(name.split('+')[0])[0]


def optimizer(
  preset: str,
  name: str,
  steps: int,
  backbone: Literal['pretrained', 'scratch', 'none'] = 'scratch',
) -> optax.GradientTransformation:
  """Returns what moves all parameters by a preset, in a run of so many steps.

  Args:
    preset: see `settings`.
    name: of the method.
    steps: of the run, at whose end the rate is as low as at the published one's.
    backbone: what the part of that name is; 'none' where it is the bottleneck of a
      network on features.
  """
  found = settings(preset, name)
  direction = found.direction
  if found.is_plain and backbone != 'none':
    direction = optax.masked(direction, _above_the_backbone)
  return optax.chain(
    optax.add_decayed_weights(found.weight_decay),
    direction,
    optax.scale_by_learning_rate(found.decay(found.rate, steps)),
    optimizers.backbone_rate(found.backbone if backbone == 'pretrained' else 1.0),
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
  preset: str | None = None,
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
    preset: whose options and ramps to take; see `settings`.

  Raises:
    InputError: a part is named twice, or is none, or its options are, or they and a
      preset both say where the first phase ends.
  """
  given = {}
  for text in name.split('+'):
    part, texts = discovery.split_options(text)
    if part in given:
      raise InputError(f'method {name!r} has {part} twice; name it once')
    found = _OWN if preset is None else settings(preset, part)
    published = found.options
    if callable(published):
      published = published(model.head.num_classes)
    own = discovery.parse_options(texts, _own_options(part))
    if preset is not None and 'source_steps' in own:
      raise InputError(
        f'{part}:source_steps: the schedules of preset {preset!r} have phases of their '
        'own; leave one of the two out'
      )
    peak = own.pop('strength', found.strength if strength is None else strength)
    fitted = options(part, steps, peak, task_loss, domains, found)
    given[part] = {**published, **fitted, **own}
  names, by_part = '+'.join(given), given if len(given) > 1 else given[part]
  return adaptation.create(names, model, optimizer, **by_part)


def _own_options(name):
  """Defaults of what a user may choose, its strength as the number it ends at."""
  defaults = adaptation.defaults(name)
  if callable(strength := defaults.get('strength')):
    defaults['strength'] = float(strength(math.inf))
  return defaults


def options(
  name: str,
  steps: int,
  strength: float | None,
  task_loss: Loss | None = None,
  domains: int = 1,
  settings: Settings = _OWN,
) -> dict:
  """What a method, or a part of a sum, is given for a run of so many steps.

  That is its own strength where it is a number, else the ramp of `settings` to the end
  of its schedule or to `strength`; their share of the steps for the first of two
  phases; the number of domains and the loss of a regression.

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
    given['strength'] = settings.ramp(steps, float(peak))
  if 'domains' in defaults:
    given['domains'] = domains
  if 'source_steps' in defaults:
    given['source_steps'] = phase(settings.first_phase, steps)
  if task_loss is not None:
    if 'task_loss' not in defaults:
      able = [m for m in adaptation.names() if 'task_loss' in adaptation.defaults(m)]
      raise InputError(
        f'--method {name} tells classes apart and the sets have targets of a '
        f'regression; choose one of {", ".join(able)}'
      )
    given['task_loss'] = task_loss
  return given
