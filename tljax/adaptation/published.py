"""Settings of published trainings: presets, by method.

- `library`: the tables of Transfer-Learning-Library (Jiang et al., 2022, and its
  scripts), those of Office-31 where they differ.
- `digits`: its MNIST to USPS, 50,000 steps of 128 images of each domain. From USPS the
  rate is 0.1, from SVHN 0.01 to 0.1 (`digits:rate=0.1`).
- `paper`: each method's own, of what its authors train that starts from published
  weights, else of digits; by the paper's text, else its authors' code. Deep CORAL's,
  CMD's rate and DANN's, MADA's and JAN's weight decay are from memory. AdaBN, DCTN and
  self-training have none, since no code was found.

Batches are the user's, but for FixMatch's share of the target. What no option here has
is left out: how new layers are drawn, and dropout but AFN's, MCD's and MDD's. Of the
papers': a bottleneck of two layers (WDGRL), a last block that trains (HoMM); adaptive
SAM (CST); an average of weights (FixMatch); a second update a step (MME); Adam's new
start and still batch norms (DomainBed). Of the library's: PADA's weights of its last
500 steps by a sharper softmax, IWAN's 4.5 times the loss of what weighs examples, and
the student's deployment and colours of self-ensembling.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax

from tljax import optimizers
from tljax.adaptation import adversarial
from tljax.models.bottleneck import Activation, Norm
from tljax.models.heads import Hidden, WeightNorm

# (first rate, steps of the run) -> rate by step; (steps, peak) -> strength by step.
Decay = Callable[[float, int], optax.Schedule]
Ramp = Callable[[int, float], optax.Schedule]


def inverse(decays: float) -> Decay:
  """Falls to (1 + decays)^-0.75 of the rate: a published gamma times its steps."""
  return lambda rate, steps: optimizers.inverse_decay(rate, gamma=decays / steps)


def constant(rate: float, steps: int) -> optax.Schedule:
  """Stays as it is."""
  del steps
  return optax.constant_schedule(rate)


def cosine(turn: float) -> Decay:
  """Falls along a cosine to that of `turn`, radians, at the run's end."""

  def decay(rate, steps):
    return lambda step: rate * jnp.cos(turn * jnp.asarray(step, jnp.float32) / steps)

  return decay


def half_cosine(rate: float, steps: int) -> optax.Schedule:
  """Falls to 0 along half a period."""
  return optax.cosine_decay_schedule(rate, steps)


def phase(share: float, steps: int) -> int:
  """Steps of the first of two phases, at least 1."""
  return max(1, int(share * steps))


def in_two(
  share: float, first: tuple[float, float], second: tuple[float, float]
) -> Decay:
  """An inverse decay for each of two phases: (factor of the rate, decays)."""

  def decay(rate, steps):
    switch = phase(share, steps)
    lengths = switch, max(steps - switch, 1)
    one, other = (
      inverse(decays)(factor * rate, length)
      for (factor, decays), length in zip((first, second), lengths, strict=True)
    )
    return optax.join_schedules([one, other], [switch])

  return decay


def warm_up(gamma: float) -> Ramp:
  """DANN's `adversarial.ramp`."""
  return lambda steps, peak: adversarial.ramp(steps, gamma=gamma, peak=peak)


def after(share: float, ramp: Ramp) -> Ramp:
  """The ramp from the second of two phases on, whose strength before is 0."""

  def late(steps, peak):
    switch = phase(share, steps)
    rest = ramp(max(steps - switch, 1), peak)
    return lambda step: rest(jnp.maximum(jnp.asarray(step) - switch, 0))

  return late


def jump(steps: int, peak: float) -> optax.Schedule:
  """From 1 to the peak after a tenth of the steps."""
  return lambda step: jnp.where(jnp.asarray(step) < steps // 10, 1.0, peak)


_MOMENTUM, _NESTEROV = optax.trace(0.9), optax.trace(0.9, nesterov=True)
_ADAM = optax.scale_by_adam()


class Settings(NamedTuple):
  """Of one method in a preset.

  Attributes:
    rate: at the first step, of what is new.
    weight_decay: of all parameters, added to their gradients.
    decay: of the rate.
    direction: what makes the step's direction of the gradients.
    is_plain: whether a backbone moves by its gradients alone.
    backbone: factor of the rate of a backbone from published weights.
    options: of the method; a function of the number of classes has them too.
    strength: peak of its ramp, where it is another than the method's own.
    ramp: of a strength that is a schedule.
    first_phase: share of the steps, of methods that have two phases.
    width, norm, activation, dropout, keeps_length: of the `Bottleneck`; a width of None
      is none.
    head: made of the number of classes, in place of a linear one.
    scratch: whether networks from scratch have bottleneck and head too.
    target_batches: how many times as many images of the target as of the source.
  """

  rate: float = 0.01
  weight_decay: float = 0.0
  decay: Decay = constant
  direction: optax.GradientTransformation = _NESTEROV
  is_plain: bool = False
  backbone: float = 0.1
  options: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] = {}
  strength: float | None = None
  ramp: Ramp = warm_up(10.0)
  first_phase: float = 0.5
  width: int | None = 256
  norm: Norm = 'none'
  activation: Activation | None = None
  dropout: float = 0.0
  keeps_length: bool = False
  head: Callable[[int], nn.Module] | None = None
  scratch: bool = False
  target_batches: int = 1


def _self_ensembling(classes):
  """3 x the squares + 0.01 x the cross-entropies.

  Over classes the library sums the squares and takes the others' mean; French et al.
  have it the other way round.
  """
  strength = 3.0 * classes
  return {
    'threshold': 0.8,
    'strength': strength,
    'balance': 0.01 / (strength * classes),
  }


def _mcd(width):
  """No bottleneck, but two layers in either head."""
  options = {'widths': (width, width), 'rates': (0.5, 0.5, 0.0), 'batch_norm': True}
  return {'width': None, 'norm': 'batch', 'head': functools.partial(Hidden, **options)}


_AFN = {'width': 1000, 'norm': 'batch', 'dropout': 0.5, 'keeps_length': True}
_MDD_HEAD = functools.partial(Hidden, widths=(1024,), rates=(0.0, 0.5))
_MDD = {'width': 1024, 'norm': 'batch', 'dropout': 0.5, 'head': _MDD_HEAD}
# Three epochs before 20. Reversal is at up to 2 there, of half the losses' sum.
_ADDA = 3 / 23
# Its gradient reversal is at 2 / (1 + exp(-t / 1000)) - 1 after t of 20,000 steps.
_OFFICE = Settings(
  weight_decay=1e-3, decay=inverse(20.0), ramp=warm_up(20.0), norm='batch'
)
_STEADY = {
  'decay': constant,
  'direction': _MOMENTUM,
  'is_plain': True,
  'backbone': 1.0,
}
LIBRARY = {
  'adda': _OFFICE._replace(
    rate=0.001,
    decay=in_two(_ADDA, (1.0, 0.9), (1.0, 6.0)),
    strength=1.0,
    ramp=after(_ADDA, warm_up(20.0)),
    first_phase=_ADDA,
  ),
  'afn': _OFFICE._replace(
    **_STEADY,
    **_AFN,
    rate=0.001,
    weight_decay=5e-4,
    options={'delta': 1.0, 'entropy': 0.1},
  ),
  'bsp': _OFFICE._replace(rate=0.003, options={'penalty': 2e-4}),
  'cdan': _OFFICE,
  'dan': _OFFICE._replace(
    rate=0.003, weight_decay=5e-4, decay=inverse(3.0), options={'linear': True}
  ),
  'dann': _OFFICE,
  'fixmatch': _OFFICE._replace(
    rate=0.001, decay=inverse(8.0), options={'threshold': 0.9}, target_batches=3
  ),
  'iwan': _OFFICE._replace(rate=0.001, decay=inverse(10.0), strength=3.0),
  'jan': _OFFICE._replace(rate=0.003, weight_decay=5e-4, decay=inverse(3.0)),
  'mcc': _OFFICE._replace(
    rate=0.005, decay=inverse(10.0), options={'temperature': 2.5}, width=1024
  ),
  'mcd': _OFFICE._replace(
    **_STEADY,
    **_mcd(1024),
    rate=0.001,
    weight_decay=5e-4,
    options={'strength': 10.0, 'balance': 0.01},  # of 31 classes; of 65 30, of 12 1
  ),
  'mdd': _OFFICE._replace(
    **_MDD,
    rate=0.004,
    weight_decay=5e-4,
    decay=inverse(4.0),
  ),
  'mean_teacher': _OFFICE._replace(
    rate=1e-4,
    weight_decay=0.0,
    decay=inverse(10.0),
    direction=_ADAM,
    options=_self_ensembling,
  ),
  'osbp': _OFFICE._replace(rate=0.001, weight_decay=5e-4, decay=inverse(3.0)),
  'pada': _OFFICE._replace(rate=0.002),
}

# Of networks from scratch, whose backbone has the whole rate.
_DIGITS = _OFFICE._replace(decay=inverse(50.0), ramp=warm_up(50.0), scratch=True)
DIGITS = {
  'adda': _DIGITS._replace(
    decay=in_two(_ADDA, (0.1, 2.25), (1.0, 15.0)),
    strength=1.0,
    ramp=after(_ADDA, warm_up(50.0)),
    first_phase=_ADDA,
  ),
  'afn': _DIGITS._replace(
    **_STEADY,
    **_AFN,
    weight_decay=5e-4,
    options={'delta': 0.3, 'entropy': 0.03},
  ),
  'bsp': _DIGITS._replace(options={'penalty': 1e-4}),
  'cdan': _DIGITS,
  'dan': _DIGITS._replace(
    weight_decay=5e-4, decay=inverse(15.0), options={'linear': True}
  ),
  'dann': _DIGITS,
  'jan': _DIGITS._replace(weight_decay=5e-4, decay=inverse(15.0)),
  'mcc': _DIGITS._replace(options={'temperature': 2.5}),
  'mcd': _DIGITS._replace(
    **_STEADY,
    **_mcd(1024),
    weight_decay=5e-4,
    options={'strength': 0.3, 'balance': 0.03},
  ),
  'mdd': _DIGITS._replace(**_MDD, weight_decay=5e-4, decay=inverse(10.0)),
}

_ANNEALED = Settings(decay=inverse(10.0))  # (1 + 10 p)^-0.75 at a share p of the run
_STEPWISE = Settings(weight_decay=1e-3, decay=inverse(50.0), ramp=warm_up(50.0))
_MINIMAX = Settings(weight_decay=5e-4, decay=inverse(5.0), width=512)
_REGRESSION = Settings(0.1, 1e-3, inverse(2.0), width=None)
_SCRATCH = Settings(direction=_ADAM, backbone=1.0, width=None)
_DOMAINBED = _SCRATCH._replace(rate=5e-5)
PAPER = {
  # The second phase at a fifth of the first's rate, Adam's beta1 being 0.5.
  'adda': _SCRATCH._replace(
    rate=1e-3,
    decay=in_two(0.5, (1.0, 0.0), (0.2, 0.0)),
    direction=optax.scale_by_adam(b1=0.5),
    options={'strength': 1.0},
  ),
  'afn': Settings(**_STEADY, **_AFN, rate=0.001, weight_decay=5e-4),
  'bnm': Settings(weight_decay=1e-3, decay=inverse(6.0), width=None),
  'bsp': _STEPWISE._replace(rate=0.003, options={'penalty': 1e-4}, activation='relu'),
  'cdan': _ANNEALED._replace(weight_decay=1e-3),
  'cmd': Settings(1.0, direction=optax.scale_by_adadelta(rho=0.95), backbone=0.0),
  'co_training': Settings(
    0.05, direction=_MOMENTUM, backbone=1.0, first_phase=1 / 30, width=None
  ),
  'coral': Settings(weight_decay=5e-4, direction=_MOMENTUM, width=None),
  'cst': Settings(
    0.005,
    1e-3,
    inverse(30.0),
    _MOMENTUM,
    options={'strength': 2.0},
    width=2048,
    norm='batch',
  ),
  'dan': Settings(
    decay=inverse(20.0),
    direction=_MOMENTUM,
    options={'endpoints': ('features', 'logits'), 'linear': True},
    width=None,
  ),
  'dann': _ANNEALED._replace(direction=_MOMENTUM),
  'dare_gram': _REGRESSION,
  'deepjdot': Settings(
    1e-4,
    direction=_ADAM,
    backbone=1.0,
    options={'strength': 1e-4, 'alpha': 10.0},
    width=128,
  ),
  'entropy': _MINIMAX,
  'fixmatch': Settings(
    0.03, 5e-4, cosine(7 / 16 * math.pi), backbone=1.0, width=None, target_batches=7
  ),
  'group_dro': Settings(1e-3, 1e-4, direction=_MOMENTUM, backbone=1.0, width=None),
  'homm': Settings(
    3e-4,
    0.01,
    direction=_ADAM,
    backbone=0.0,
    options={'strength': 200.0, 'order': 4},
    width=180,
    activation='tanh',
  ),
  'irm': _DOMAINBED._replace(ramp=jump),
  'iwan': Settings(
    0.003, decay=inverse(50.0), direction=_MOMENTUM, strength=0.1, ramp=warm_up(5.0)
  ),
  'jan': _ANNEALED._replace(
    weight_decay=5e-4,
    direction=_MOMENTUM,
    options={'linear': True},
    strength=1.0,
    width=None,
  ),
  'm3sda': _SCRATCH._replace(
    rate=2e-4, weight_decay=5e-4, options={'strength': 1e-4, 'moments': 5}
  ),
  'mada': _ANNEALED._replace(direction=_MOMENTUM),
  'mcc': _STEPWISE._replace(rate=0.003, norm='batch', activation='none'),
  'mcd': Settings(
    **_STEADY,
    rate=0.001,
    weight_decay=5e-4,
    options={'balance': 0.01},
    **_mcd(1000),
  ),
  'mdd': Settings(0.004, 5e-4, inverse(20.0), ramp=warm_up(100.0), **_MDD),
  'mean_teacher': Settings(
    1e-5,
    direction=_ADAM,
    options={'strength': 10.0, 'threshold': 0.9, 'balance': 0.01},
    width=512,
  ),
  'mixstyle': Settings(
    1e-3,
    5e-4,
    half_cosine,
    _MOMENTUM,
    backbone=1.0,
    options={'stages': ('stage1', 'stage2', 'stage3')},
    width=None,
  ),
  'mme': _MINIMAX,
  'osbp': Settings(0.001, 5e-4, backbone=0.0, width=100, norm='batch'),
  'ovanet': _ANNEALED._replace(weight_decay=5e-4, width=None),
  'pada': _STEPWISE,
  'rsd': _REGRESSION,
  'sdat': Settings(0.002, 1e-3, inverse(30.0), norm='batch'),
  'shot': Settings(
    weight_decay=1e-3,
    decay=in_two(0.5, (1.0, 10.0), (1.0, 10.0)),
    norm='batch',
    activation='none',
    head=WeightNorm,
  ),
  'source_coral': _DOMAINBED._replace(options={'strength': 4.0}),
  'tent': _SCRATCH._replace(rate=1e-3, norm='batch'),
  'vrex': _DOMAINBED._replace(ramp=jump),
  'wdgrl': Settings(
    1e-4,
    1e-5,
    direction=_ADAM,
    backbone=0.0,
    options={'strength': 0.1, 'critic_steps': 10, 'critic_rate': 10.0},
    width=100,
    activation='relu',
  ),
}
PRESETS = {'library': LIBRARY, 'digits': DIGITS, 'paper': PAPER}
