"""What regularised fine-tuning shares: cross-entropy plus one penalty."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.finetuning import plain
from tljax.losses import Loss
from tljax.method import (
  Batch,
  Method,
  Outputs,
  Params,
  TrainState,
  apply_train,
  gradient_step,
  new_state,
  predict_with,
)


def regularize(
  model,
  optimizer: optax.GradientTransformation,
  penalty: Callable[[Params, Outputs, Any, Batch], jax.Array],
  *,
  strength: float | optax.Schedule = 1.0,
  head_decay: float = 0.0,
  remember: Callable[[TrainState], Any] = lambda state: (),
  init_params: Callable[[jax.Array, Outputs], Params] | None = None,
  loss: Loss | None = None,
) -> Method:
  """Builds a method that minimises cross-entropy + strength x penalty.

  Beside it head_decay / 2 x the squared norm of all but the part 'backbone'. A step
  takes `{'image', 'label'}`.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters.
    penalty: `(params, outputs, memory, batch) -> scalar`; the outputs are those of
      the training pass.
    strength: a number, or a schedule of the step.
    head_decay: of what has no pretrained weights to be pulled to.
    remember: `state -> memory`, of the state before the first step, which holds the
      pretrained variables. It is copied.
    init_params: see `new_state`.
    loss: in place of the cross-entropy; see `plain.method`.
  """
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init(key, variables, batch):
    images = batch['image']
    state = new_state(key, model, optimizer, images, variables, init_params=init_params)
    memory = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), remember(state))
    return state.replace(memory=memory)

  def loss_fn(params, state, batch, rng):
    outputs, model_state = apply_train(model, params, state, batch['image'], rng)
    logits, labels = outputs['logits'], batch['label']
    task, metrics = plain.judge(logits, labels, loss)
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    penalized = weight * penalty(params, outputs, state.memory, batch)
    if head_decay:
      head = {part: tree for part, tree in params.items() if part != 'backbone'}
      penalized += head_decay / 2 * optax.tree.norm(head, squared=True)
    metrics |= {'task_loss': task, 'penalty': penalized}
    return task + penalized, (model_state, metrics)

  return Method(init, gradient_step(loss_fn, optimizer), predict_with(model))
