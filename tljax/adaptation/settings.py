"""What a published training is described by: schedules, and all else of it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax

from tljax import optimizers
from tljax.adaptation import adversarial
from tljax.models.bottleneck import Activation, Norm
from tljax.models.heads import Hidden

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


def renewed(share: float) -> Decay:
  """Falls along half a period, and anew from the full rate after a share of the run."""

  def decay(rate, steps):
    switch = phase(share, steps)
    lengths = steps, max(steps - switch, 1)
    schedules = [half_cosine(rate, length) for length in lengths]
    return optax.join_schedules(schedules, [switch])

  return decay


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


def jump(share: float) -> Ramp:
  """From 1 to the peak after a share of the steps."""

  def jumping(steps, peak):
    switch = phase(share, steps)
    return lambda step: jnp.where(jnp.asarray(step) < switch, 1.0, peak)

  return jumping


MOMENTUM, NESTEROV = optax.trace(0.9), optax.trace(0.9, nesterov=True)
ADAM = optax.scale_by_adam()


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
  direction: optax.GradientTransformation = NESTEROV
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


# Fields that trainings by the library and by papers have alike.


def mcd(width: int) -> dict[str, Any]:
  """MCD's network: no bottleneck, but two layers in either head."""
  options = {'widths': (width, width), 'rates': (0.5, 0.5, 0.0), 'batch_norm': True}
  return {'width': None, 'norm': 'batch', 'head': functools.partial(Hidden, **options)}


AFN = {'width': 1000, 'norm': 'batch', 'dropout': 0.5, 'keeps_length': True}
_MDD_HEAD = functools.partial(Hidden, widths=(1024,), rates=(0.0, 0.5))
MDD = {'width': 1024, 'norm': 'batch', 'dropout': 0.5, 'head': _MDD_HEAD}
# Of AFN and MCD.
STEADY = {
  'decay': constant,
  'direction': MOMENTUM,
  'is_plain': True,
  'backbone': 1.0,
}
