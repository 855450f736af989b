"""Smooth domain-adversarial training (Rangwani et al., 2022)."""

import optax

from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model, optimizer: optax.GradientTransformation, *, radius: float = 0.02
) -> Method:
  """Trains on the source alone, towards where its loss is low all around.

  It is the part of a sum, such as 'cdan+mcc+sdat': the source's cross-entropy is
  minimised by its gradient at w + radius x gradient / |gradient|, and the other parts'
  losses by theirs at w, for a smooth adversarial loss is a worse one. It costs another
  two passes. The authors' code takes all gradients at the former, of MCC too, which
  joins what it climbs.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters.
    radius: rho, the norm of the perturbation; the authors' for Office-Home.
  """
  return align(model, optimizer, lambda *_: 0.0, radius=radius)
