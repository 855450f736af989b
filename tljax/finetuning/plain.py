"""Supervised training of a model, pretrained or not: plain fine-tuning."""

import jax
import optax

from tljax import losses
from tljax.errors import InputError
from tljax.losses import Loss
from tljax.method import (
  LossFn,
  Method,
  apply_train,
  gradient_step,
  new_state,
  predict_with,
)


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  label_smoothing: float = 0.0,
  loss: Loss | None = None,
) -> Method:
  """Minimises the cross-entropy of labelled images, or another loss.

  What trains is the optimiser's and the model's business: with `labels.freeze` this
  is feature extraction or partial fine-tuning; with no pretrained variables it is
  training from scratch. A step takes `{'image', 'label'}`.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    label_smoothing: see `losses.cross_entropy`.
    loss: `(logits, labels) -> ()` in its place, such as `losses.focal`, or
      `losses.squared_error` of a regression; no accuracy is reported then.

  Raises:
    InputError: both label_smoothing and a loss are given.
  """

  def init(key, variables, batch):
    return new_state(key, model, optimizer, batch['image'], variables)

  step = gradient_step(loss_of(model, label_smoothing, loss), optimizer)
  return Method(init, step, predict_with(model))


def loss_of(model, label_smoothing: float = 0.0, loss: Loss | None = None) -> LossFn:
  """Returns the loss of a training pass, for `gradient_step`; see `method`."""
  if loss and label_smoothing:
    raise InputError(
      f'label_smoothing is {label_smoothing}, which is for the cross-entropy of one '
      'class an example and not for another loss; leave it out'
    )

  def loss_fn(params, state, batch, rng):
    outputs, model_state = apply_train(model, params, state, batch['image'], rng)
    logits, labels = outputs['logits'], batch['label']
    value, metrics = judge(logits, labels, loss, label_smoothing)
    return value, (model_state, metrics)

  return loss_fn


def judge(
  logits: jax.Array,
  labels: jax.Array,
  loss: Loss | None = None,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss and metrics: of the cross-entropy, its default, the accuracy."""
  if loss is not None:
    return loss(logits, labels), {}
  value = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
  return value, {'accuracy': losses.accuracy(logits, labels)}
