"""Heads trained by gradients: a Method whose images are features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.extraction.head import Head, as_outputs
from tljax.method import (
  Method,
  TrainState,
  apply_train,
  gradient_step,
  new_state,
  predict_with,
)


class Probe(nn.Module):
  """A classifier's head alone: features (N, ...) to `{'features', 'logits'}`."""

  head: nn.Module

  def __call__(self, features, train=False):
    logits = self.head(as_outputs(features), train=train)
    return {'features': features, 'logits': logits}


def head_of(model: Probe, state: TrainState) -> Head:
  """Returns the trained head, to join its backbone."""
  parts = {c: tree['head'] for c, tree in state.variables.items() if 'head' in tree}
  return Head(model.head, parts)


def method(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  loss: losses.Loss = losses.cross_entropy,
  dropout: jax.Array | float | None = None,
) -> Method:
  """Minimises a loss of labelled features. A step takes `{'image', 'label'}`.

  Args:
    model: of features, such as a `Probe`.
    optimizer: moves its parameters.
    loss: `(logits, labels) -> ()`; of a regression `losses.squared_error`, where each
      example may have several labels `losses.binary_cross_entropy`.
    dropout: rate of all dropout layers in training; None leaves them their own. It
      may be traced: `sweep` trains heads of several at once.
  """

  def init(key, variables, batch):
    return new_state(key, model, optimizer, batch['image'], variables)

  def loss_fn(params, state, batch, rng):
    with nn.intercept_methods(_dropout_at(dropout)):
      outputs, model_state = apply_train(model, params, state, batch['image'], rng)
    return loss(outputs['logits'], batch['label']), (model_state, {})

  return Method(init, gradient_step(loss_fn, optimizer), predict_with(model))


def _dropout_at(rate):
  """A linen interceptor; `nn.Dropout` itself takes no rate that is traced."""

  def intercept(next_call, args, kwargs, context):
    if rate is None or not isinstance(context.module, nn.Dropout):
      return next_call(*args, **kwargs)
    (x,) = args
    keep = 1.0 - jnp.asarray(rate, x.dtype)
    mask = jax.random.bernoulli(context.module.make_rng('dropout'), keep, x.shape)
    return jnp.where(mask, x / keep, jnp.zeros_like(x))

  return intercept
