"""Stochastic normalization (Kou et al., 2020)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.finetuning.wrapped import WrappedModel
from tljax.losses import Loss
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  probability: float = 0.5,
  loss: Loss | None = None,
) -> Method:
  """Normalises each channel by the batch's statistics or the moving ones, at random.

  So the pretrained moving statistics take part in training, and a layer cannot lean on
  those of small batches. Prediction is unchanged: by the moving statistics.

  Args:
    model: outputs by endpoint, among them 'logits'; with batch norm.
    optimizer: moves all parameters.
    probability: p of the batch's statistics; at 1 this is plain fine-tuning.
    loss: see `plain.method`.
  """
  return plain.method(StochasticNormModel(model, probability), optimizer, loss=loss)


@dataclasses.dataclass(frozen=True)
class StochasticNormModel(WrappedModel):
  """A model whose batch norms draw a branch a channel, while they train.

  The moving statistics are updated as they would be, after they served.
  """

  probability: float

  def init(self, *args, **kwargs):
    """As the model's.

    Raises:
      InputError: the model has no batch norm.
    """
    variables = super().init(*args, **kwargs)
    if 'batch_stats' not in variables:
      raise InputError('stoch_norm is for networks with batch norm; this has none')
    return variables

  def apply(self, variables, *args, **kwargs):
    """As the model's."""
    with nn.intercept_methods(_choose_branches(self.probability)):
      return super().apply(variables, *args, **kwargs)


def _choose_branches(probability):
  """A linen interceptor for batch norms in training mode."""

  def intercept(next_call, args, kwargs, context):
    norm = context.module
    # Without a path it is the evaluated copy below.
    if not (isinstance(norm, nn.BatchNorm) and norm.path):
      return next_call(*args, **kwargs)
    if _evaluates(norm, *args, **kwargs):
      return next_call(*args, **kwargs)
    x = args[0]
    copy = norm.clone(parent=None, name=None, use_running_average=True)
    by_moving = copy.apply(norm.variables, x)
    by_batch = next_call(*args, **kwargs)
    mask = jax.random.bernoulli(norm.make_rng('dropout'), probability, x.shape[-1:])
    return jnp.where(mask.reshape((1,) * (x.ndim - 1) + (-1,)), by_batch, by_moving)

  return intercept


def _evaluates(norm, x, use_running_average=None, mask=None):
  """Whether a call with these arguments normalises by the moving statistics."""
  del x, mask
  given = use_running_average
  return norm.use_running_average if given is None else given
