"""Mean teacher (Tarvainen and Valpola, 2017), as French et al. (2018) adapt with it."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation import pseudo
from tljax.adaptation.alignment import strong_view
from tljax.data.augment import Augment
from tljax.method import (
  Method,
  apply_train,
  follow,
  gradient_step,
  new_state,
  predict_with,
)


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 3.0,
  decay: float = 0.99,
  threshold: float = 0.968,
  balance: float = 0.005,
  augment: Augment = pseudo.shift_and_cut,
) -> Method:
  """Learns to predict on the target as the average of its own past weights does.

  The student minimises source cross-entropy + strength x (its `inconsistency` with the
  teacher + `balance` x the `imbalance` of its classes, as in the authors' code). The
  teacher sees the weak view of the target and the student the strong one. The
  teacher's parameters are the student's moving average, its batch statistics the
  target's alone; the domains go through the student one by one (French et al.,
  section 3). The teacher is what is deployed: the state's parameters are its own, and
  its memory has the student.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the student's parameters.
    strength: a number or a schedule of the step.
    decay: alpha, of the average a step; it starts lower, as Tarvainen and Valpola's
      does, so that the average soon forgets the first weights.
    threshold: the least probability of a prediction of the teacher's that teaches
      (French et al., section 3.2, in place of a ramp of the strength).
    balance: without it all examples may end in one class.
    augment: draws the strong view where the stream has none.
  """
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init(key, variables, batch):
    state = new_state(key, model, optimizer, batch['source']['image'], variables)
    student = jax.tree.map(lambda x: jnp.array(x, copy=True), state.variables)
    return state.replace(memory={'student': student})

  def loss_fn(params, state, batch, rng):
    view_key, source_key, target_key, _ = jax.random.split(rng, 4)
    source, target = batch['source'], batch['target']
    view = strong_view(target, augment, view_key)
    outputs, model_state = apply_train(
      model, params, state, source['image'], source_key
    )
    task = losses.cross_entropy(outputs['logits'], source['label'])
    outputs, _ = apply_train(model, params, state, view, target_key)
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    logits = outputs['logits'], target['teacher']
    gap = inconsistency(*logits, threshold)
    if balance:
      gap += balance * imbalance(*logits, threshold)
    gap *= weight
    metrics = {'task_loss': task, 'alignment_loss': gap, 'strength': weight}
    return task + gap, (model_state, metrics)

  learn = gradient_step(loss_fn, optimizer)

  def step(state, batch):
    key = jax.random.split(jax.random.fold_in(state.rng, state.step), 4)[3]
    target = batch['target']
    outputs, model_state = apply_train(model, state.params, state, target['image'], key)
    target = {**target, 'teacher': outputs['logits']}
    params, statistics = _split(state.memory['student'])
    student = state.replace(params=params, model_state=statistics)
    after, metrics = learn(student, {**batch, 'target': target})
    keep = jnp.minimum(1 - 1 / (after.step + 1).astype(jnp.float32), decay)
    params = follow(state.params, after.params, 1 - keep)
    memory = {'student': after.variables}
    after = after.replace(params=params, model_state=model_state, memory=memory)
    return after, metrics

  return Method(init, step, predict_with(model))


def inconsistency(
  student: jax.Array, teacher: jax.Array, threshold: float = 0.0
) -> jax.Array:
  """Mean squared difference of softmax predictions, 0 where the teacher is not sure.

  Logits are (N, K); the mean is over examples, sure or not, and classes. The teacher
  is a constant to the gradient.
  """
  _, sure = pseudo.confident(teacher, threshold)
  gaps = jax.nn.softmax(student) - jax.lax.stop_gradient(jax.nn.softmax(teacher))
  return jnp.mean(sure.astype(gaps.dtype)[:, None] * jnp.square(gaps))


def imbalance(
  student: jax.Array, teacher: jax.Array, threshold: float = 0.0
) -> jax.Array:
  """How far a student's mean prediction is from all classes alike, by cross-entropy.

  It is the sum over classes of the binary cross-entropy to 1 / K, times the share of
  examples that the teacher is sure of. Logits are (N, K).
  """
  _, sure = pseudo.confident(teacher, threshold)
  mean, alike = jnp.mean(jax.nn.softmax(student), 0), 1 / student.shape[-1]
  ours, others = (jnp.log(p + 1e-6) for p in (mean, 1 - mean))
  taught = jnp.mean(sure.astype(mean.dtype))
  return -taught * jnp.sum(alike * ours + (1 - alike) * others)


def _split(variables):
  model_state = dict(variables)
  return model_state.pop('params'), model_state
