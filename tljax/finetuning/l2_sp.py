"""Explicit inductive bias for transfer learning: L2-SP (Li et al., 2018)."""

import jax
import jax.numpy as jnp
import optax

from tljax.finetuning.regularized import regularize
from tljax.losses import Loss
from tljax.method import Method, Params


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.01,
  head_decay: float = 0.01,
  loss: Loss | None = None,
) -> Method:
  """Pulls the backbone to the pretrained weights and all else to zero.

  The penalty is alpha/2 |w - w0|^2 + beta/2 |v|^2 (section 3.2), with w the backbone,
  w0 its pretrained weights, and v the head. Use it in place of weight decay.

  Args:
    model: outputs by endpoint, among them 'logits'; its part 'backbone' is w.
    optimizer: moves all parameters.
    strength: alpha, a number or a schedule of the step. The paper chooses it by
      validation; both defaults are the published library's.
    head_decay: beta, of what has no pretrained weights.
    loss: see `plain.method`.
  """

  def penalty(params, outputs, start, batch):
    del outputs, batch
    return squared_distance(params['backbone'], start) / 2

  return regularize(
    model,
    optimizer,
    penalty,
    strength=strength,
    head_decay=head_decay,
    loss=loss,
    remember=lambda state: state.params['backbone'],
  )


def squared_distance(params: Params, start: Params) -> jax.Array:
  """Returns the sum of (w - w0)^2 over all leaves, ()."""
  return optax.tree.sum(
    jax.tree.map(lambda w, w0: jnp.sum((w - w0) ** 2), params, start)
  )
