"""Batch spectral shrinkage against negative transfer (Chen et al., 2019)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.errors import InputError
from tljax.finetuning.regularized import regularize
from tljax.losses import Loss
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1e-3,
  k: int = 1,
  loss: Loss | None = None,
) -> Method:
  """Shrinks the directions in which a batch's features hardly vary.

  These hold the pretrained knowledge that does not transfer (section 4.2).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves all parameters.
    strength: eta, a number or a schedule of the step.
    k: number of singular values that are shrunk.
    loss: see `plain.method`.
  """

  def penalty(params, outputs, memory, batch):
    del params, memory, batch
    return spectral_shrinkage(outputs['features'], k)

  return regularize(model, optimizer, penalty, strength=strength, loss=loss)


def spectral_shrinkage(features: jax.Array, k: int = 1) -> jax.Array:
  """Sum of the squares of the k smallest singular values (equation 3).

  Args:
    features: (N, D) float, of a batch; it has min(N, D) singular values.
    k: how many, at most min(N, D).

  Raises:
    InputError: k is below 1.
  """
  if k < 1:  # a slice [-0:] is all of them
    raise InputError(f'bss shrinks k={k} singular values; choose at least 1')
  wide = features.astype(np.promote_types(features.dtype, np.float32))  # as svd wants
  return jnp.sum(jnp.linalg.svd(wide, compute_uv=False)[-k:] ** 2)
