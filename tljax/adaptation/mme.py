"""Minimax entropy, for a target with a few labels (Saito et al., 2019)."""

import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.adversarial import oppose_head
from tljax.adaptation.alignment import align
from tljax.method import Method
from tljax.models import Cosine


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.1,
  temperature: float = 0.05,
) -> Method:
  """Moves the classes' prototypes to the target, then the target to the prototypes.

  Head and features both minimise the cross-entropy of the labelled examples. On the
  unlabelled target the head maximises, and the features minimise, strength x the mean
  entropy; gradient reversal makes both one descent (equations 1 to 3). The model's head
  is replaced by a `Cosine`, whose weights are the prototypes.

  Args:
    model: outputs by endpoint, among them 'features'; with a part 'head'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step.
    temperature: T, of the cosine head.
  """
  model = model.clone(head=Cosine(model.head.num_classes, temperature))

  def loss(params, source, target, strength):
    del source
    logits = oppose_head(model, params, target)
    return -strength * jnp.mean(losses.entropy(logits))

  return align(model, optimizer, loss, strength=strength)
