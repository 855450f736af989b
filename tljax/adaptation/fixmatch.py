"""FixMatch (Sohn et al., 2020), with the target as the unlabelled set."""

import optax

from tljax.adaptation import pseudo
from tljax.adaptation.alignment import align
from tljax.data.augment import Augment
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  threshold: float = 0.95,
  augment: Augment = pseudo.shift_and_cut,
) -> Method:
  """Learns on a strong view of the target what it is sure of on a weak one.

  Minimises source cross-entropy + strength x `pseudo.confident_cross_entropy` of the
  strong view to the weak one's predictions (equations 3 and 4). The weak view is the
  target's 'image', the strong one its 'strong', as `randaugment.fixmatch` draws them.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda_u, a number or a schedule of the step.
    threshold: tau, the least probability of a pseudo-label.
    augment: draws the strong view where the stream has none.
  """

  def loss(params, source, target, strength):
    del params, source
    strong, weak = target['strong']['logits'], target['logits']
    return strength * pseudo.confident_cross_entropy(strong, weak, threshold)

  return align(model, optimizer, loss, strength=strength, augment=augment)
