import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.finetuning import distillation


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_the_published_values(check_reference, temperature):
  """The published loss leaves the factor T^2 to its caller."""

  def loss(student, teacher):
    return distillation.distillation(student, teacher, temperature) / temperature**2

  check_reference(f'distillation_T={temperature}', loss, ['logits_s', 'logits_s2'])


def test_its_formula(check_slow):
  def softmax(logits):
    return np.exp(logits) / np.sum(np.exp(logits))

  def slow(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
      p, q = softmax(t / 3), softmax(s / 3)
      total += 9 * sum(p[k] * np.log(p[k] / q[k]) for k in range(len(p)))
    return total / len(student)

  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 4, 5))
  check_slow(lambda s, t: distillation.distillation(s, t, 3.0), slow, student, teacher)


def test_agreement_costs_nothing_and_a_hot_student_matches_logits():
  rng = np.random.default_rng(1)
  student, teacher = np.float32(rng.normal(size=(2, 4, 5)))
  same = distillation.distillation(student, student + 2, 4.0)
  np.testing.assert_allclose(same, 0, atol=1e-5)
  gaps = (student - student.mean(1, keepdims=True)) - (
    teacher - teacher.mean(1, keepdims=True)
  )
  # Hinton et al., equation 4: half the squared gap over K, at a high temperature.
  hot = distillation.distillation(student, teacher, 100.0)
  np.testing.assert_allclose(hot, np.mean(np.sum(gaps**2, 1)) / 10, rtol=0.05)


def test_one_step_with_itself_as_teacher(check_step, model):
  def penalty(params, start, outputs, images):
    del params
    taught = model.apply(start, images)['logits']
    return 0.5 * distillation.distillation(outputs['logits'], taught, 2.0)

  check_step(
    lambda *args: distillation.method(*args, temperature=2.0, strength=0.5), penalty
  )


def test_another_network_teaches(check_step):
  teacher = models.create('cnn', 10)
  variables = teacher.init(jax.random.key(9), jnp.zeros((1, 16, 16, 3)))
  variables = jax.tree.map(np.asarray, variables)  # as read from a file

  def penalty(params, start, outputs, images):
    del params, start
    taught = teacher.apply(variables, images)['logits']
    return distillation.distillation(outputs['logits'], taught, 4.0)

  check_step(
    lambda *args: distillation.method(*args, teacher=(teacher, variables)), penalty
  )


def test_the_student_takes_after_the_teacher(model, family_batches):
  batch = family_batches['finetuning'](0)
  variables = model.init(jax.random.key(9), batch['image'])
  taught = model.apply(variables, batch['image'])['logits']

  def gap(strength):
    method = distillation.method(
      model, optax.adam(1e-2), teacher=(model, variables), strength=strength
    )
    state, step = method.init(jax.random.key(0), None, batch), jax.jit(method.step)
    for _ in range(20):
      state, _ = step(state, batch)
    return distillation.distillation(method.predict(state, batch['image']), taught, 4.0)

  assert gap(10.0) < gap(0.0) / 2
