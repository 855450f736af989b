"""Distilling the knowledge in a neural network (Hinton et al., 2015)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.finetuning.regularized import regularize
from tljax.method import Method, Variables


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  teacher: tuple[Any, Variables] | None = None,
  temperature: float = 4.0,
  strength: float | optax.Schedule = 1.0,
) -> Method:
  """Learns from the labels and from a teacher's softened predictions.

  Args:
    model: the student; outputs by endpoint, among them 'logits'.
    optimizer: moves the student's parameters.
    teacher: its model and variables; it sees the student's images, in evaluation
      mode. By default the student as it starts, which is then held to what it
      predicted before it was tuned.
    temperature: T of both softmaxes.
    strength: of the teacher beside the labels, a number or a schedule of the step.
  """
  teacher_model = teacher[0] if teacher else model

  def penalty(params, outputs, variables, batch):
    del params
    taught = teacher_model.apply(variables, batch['image'], train=False)['logits']
    return distillation(outputs['logits'], jax.lax.stop_gradient(taught), temperature)

  return regularize(
    model,
    optimizer,
    penalty,
    strength=strength,
    remember=lambda state: teacher[1] if teacher else state.variables,
  )


def distillation(
  student: jax.Array, teacher: jax.Array, temperature: float
) -> jax.Array:
  """T^2 KL(teacher || student) of predictions at temperature T, the mean over rows.

  T^2 keeps the gradient's size whatever the temperature (section 2).

  Args:
    student: (N, K) logits.
    teacher: (N, K) logits.
    temperature: T.
  """
  divergence = optax.losses.kl_divergence_with_log_targets(
    jax.nn.log_softmax(student / temperature), jax.nn.log_softmax(teacher / temperature)
  )
  return temperature**2 * jnp.mean(divergence)
