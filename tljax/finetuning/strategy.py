"""How much of a pretrained network to tune, by the target set's size and similarity."""

import math
from typing import Literal, NamedTuple

import numpy as np

from tljax.errors import InputError
from tljax.measures import transferability

_MEASURED = 2000  # of the examples, or two of each class, to measure by
_FEW, _MANY = 10, 40  # examples of a class
_SKILL = 0.3  # of frozen features that tell the classes apart
_BATCH, _PASSES, _LEAST, _MOST = 32, 3, 60, 10_000  # steps; the most as BiT-HyperRule
_MEANING = {
  'probe': 'Fit a linear head on the frozen features',
  'partial': 'Tune the head and the upper half of the stages',
  'full': 'Tune the head and all stages',
}
_PROBE = 'a linear probe of the frozen features'
_COST = {'probe': 0.0, 'partial': 0.6, 'full': 1.0}  # of a step that tunes all


class Evidence(NamedTuple):
  """What is known of a target set before anything is tuned.

  Attributes:
    examples: labelled ones.
    classes: number of them.
    accuracy: of a linear probe of the frozen features on held-out folds of the
      training examples: how similar the target is to what the network has learned.
      None where a class has one example, so that none can be held out.
    image_seconds: of a step that tunes all, an image of its batch; 0 where it is not
      known.
  """

  examples: int
  classes: int
  accuracy: float | None
  image_seconds: float = 0.0

  @property
  def skill(self) -> float | None:
    """The probe's accuracy on the scale from guessing, 0, to never erring, 1."""
    guess = 1 / self.classes
    return self.accuracy and max(0.0, (self.accuracy - guess) / (1 - guess))


class Strategy(NamedTuple):
  """What to do, as the flags of `experiments.finetune` have it.

  Attributes:
    name: 'probe', a linear head on the frozen features; 'partial', the upper half of
      the stages is tuned too; 'full', everything is.
    learning_rate: of Adam, at the first step, along a cosine.
    backbone_rate: factor of the backbone's.
    steps: of 32 examples.
    augment: of the training images; 'flip' is wrong where left and right differ, as
      with digits, and cost USPS two points.
    reason: two sentences.
  """

  name: Literal['probe', 'partial', 'full']
  learning_rate: float
  backbone_rate: float
  steps: int
  augment: str
  reason: str


def measure(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  image_seconds: float = 0.0,
) -> Evidence:
  """Measures a target set by the frozen network's features of its training examples.

  Args:
    features: (N, D) float.
    labels: (N,) integer in [0, K).
    num_classes: K.
    image_seconds: see `Evidence`.

  Raises:
    InputError: a class has no example.
  """
  examples, counts = len(labels), np.bincount(labels, minlength=num_classes)
  if not counts.all():
    raise InputError(f'class {counts.argmin()} has no training example; add some')
  accuracy = None
  if counts.min() > 1:
    accuracy = transferability.linear_probe(features, labels, examples=_MEASURED)
  return Evidence(examples, num_classes, accuracy, image_seconds)


def choose(evidence: Evidence, seconds: float = math.inf) -> Strategy:
  """Chooses a strategy, and says why.

  Few examples that the frozen features tell apart want no more than a linear head: to
  tune is to overfit, and to distort them (Kumar et al., 2022). With more the upper
  stages pay; with many all of them. Where the features do not serve, each pays with
  fewer examples. The limits were set on the sets of the table in experiments/README.md.
  Where nothing can be held out, features are taken to serve.

  Args:
    evidence: see `measure`.
    seconds: that training may take on this device: a cheaper strategy is chosen where
      it would take longer.
  """
  per_class = evidence.examples / evidence.classes
  skill = _SKILL if evidence.skill is None else evidence.skill
  if per_class < _FEW and skill >= _SKILL:
    best, size = 'probe', 'too few to tune a network by'
  elif per_class < _FEW or (per_class < _MANY and skill >= _SKILL):
    best, size = 'partial', 'enough to tune its upper stages by'
  else:
    best, size = 'full', 'enough to tune all of it by'
  if skill < _SKILL and per_class < _MANY:
    size = 'few, but its frozen features do not serve'
  steps = int(np.clip(_PASSES * evidence.examples / _BATCH, _LEAST, _MOST))
  order = list(_COST)
  takes = [c * steps * _BATCH * evidence.image_seconds for c in _COST.values()]
  affordable = max(i for i, time in enumerate(takes) if time <= seconds)
  position = min(order.index(best), affordable)
  count = f'{per_class:.0f} examples of a class are'
  count = 'One example of a class is' if per_class < 1.5 else count
  found = f'a class has one alone, which cannot be held out to judge {_PROBE}'
  if evidence.accuracy is not None:
    right = f'{evidence.accuracy:.0%} of held-out ones of {evidence.classes} classes'
    found = f'{_PROBE} is right on {right}'
  reason = f'{count} {size}, and {found}.'
  if best == 'probe':
    reason += f' {_MEANING[best]}.'
  elif order[position] == best:
    reason += f' {_MEANING[best]} for {steps} steps of {_BATCH} examples.'
  else:
    reason += (
      f' {best!r} would take about {takes[order.index(best)]:.0f} seconds, more than '
      f'the {seconds:.0f} there are: {_MEANING[order[position]]} instead.'
    )
  is_probe = order[position] == 'probe'
  return Strategy(
    order[position], 1e-3, 0.1, steps, 'none' if is_probe else 'flip', reason
  )
