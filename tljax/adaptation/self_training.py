"""Self-training by sure pseudo-labels (Lee, 2013; Zou et al., 2018)."""

import optax

from tljax.adaptation import pseudo
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  threshold: float = 0.9,
) -> Method:
  """Takes the target's sure predictions for labels, anew in each step.

  Minimises source cross-entropy + strength x `pseudo.confident_cross_entropy` of the
  target's predictions to themselves (Lee, equation 15; Zou et al., with one threshold
  for all classes).

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: alpha, a number or a schedule of the step; Lee's rises from 0.
    threshold: the least probability of a pseudo-label; 0 takes all, as Lee does.
  """

  def loss(params, source, target, strength):
    del params, source
    logits = target['logits']
    return strength * pseudo.confident_cross_entropy(logits, logits, threshold)

  return align(model, optimizer, loss, strength=strength)
