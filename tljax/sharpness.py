"""Losses whose gradient is that of a point nearby, where they are higher."""

import jax
import jax.numpy as jnp
import optax

from tljax.method import LossFn, can_move, value_and_grad


def sharpness_aware(loss_fn: LossFn, radius: float) -> LossFn:
  """Returns the loss, but with its gradient at w + radius x gradient / |gradient|.

  (Foret et al., 2021, equations 2 and 3.) Value, metrics and batch statistics are those
  at w. Parameters without a gradient, such as frozen ones, are not perturbed.
  optax.contrib.sam would need two steps for it, or an update that is given the loss.

  Args:
    loss_fn: as `gradient_step` takes it.
    radius: rho.
  """

  def loss(params, state, batch, rng):
    here = jax.lax.stop_gradient(params)
    (value, aux), grads = value_and_grad(loss_fn)(here, state, batch, rng)
    norm = optax.tree.norm(list(filter(can_move, jax.tree.leaves(grads))))
    scale = radius / jnp.maximum(norm, 1e-12)
    around = jax.tree.map(
      lambda leaf, grad: (
        leaf + (scale * grad).astype(leaf.dtype) if can_move(leaf) else leaf
      ),
      params,
      grads,
    )
    perturbed, _ = loss_fn(around, state, batch, rng)
    return value + perturbed - jax.lax.stop_gradient(perturbed), aux

  return loss
