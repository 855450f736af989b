import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import mean_teacher

RATE, STRENGTH, THRESHOLD, BALANCE = 0.1, 2.0, 0.6, 0.3


def softmax(row):
  return np.exp(row) / np.sum(np.exp(row))


@pytest.mark.parametrize(('threshold', 'sure'), [(0.0, 6), (0.75, 2)])
def test_inconsistency(check_slow, threshold, sure):
  student, teacher = np.random.default_rng(0).normal(size=(2, 6, 3)) * 2
  taught = [q if max(q) >= threshold else None for q in map(softmax, teacher)]
  assert sum(q is not None for q in taught) == sure

  def slow(student):
    pairs = zip(map(softmax, student), taught, strict=True)
    return sum(sum((p - q) ** 2) for p, q in pairs if q is not None) / (6 * 3)

  def loss(student):
    return mean_teacher.inconsistency(student, jnp.asarray(teacher), threshold)

  check_slow(loss, slow, student)
  grad = jax.grad(mean_teacher.inconsistency, 1)(student, teacher)
  np.testing.assert_array_equal(grad, 0)


def test_imbalance(check_slow):
  student, teacher = np.random.default_rng(0).normal(size=(2, 6, 3)) * 2
  sure = [max(softmax(row)) >= 0.75 for row in teacher]
  assert sum(sure) == 2

  def slow(student):
    mean = sum(map(softmax, student)) / 6
    each = [np.log(p + 1e-6) / 3 + 2 * np.log(1 - p + 1e-6) / 3 for p in mean]
    return -sum(each) * sum(sure) / 6

  def loss(student):
    return mean_teacher.imbalance(student, jnp.asarray(teacher), 0.75)

  check_slow(loss, slow, student)


def test_three_steps(points, points_batch):
  """The teacher forgets the first weights at once and then keeps half of itself."""
  source, weak = points_batch['source'], points_batch['target']['image']
  strong = weak + np.float32(0.5)
  batch = {'source': source, 'target': {'image': weak, 'strong': strong}}
  method = mean_teacher.method(
    points,
    optax.sgd(RATE),
    strength=STRENGTH,
    decay=0.6,
    threshold=THRESHOLD,
    balance=BALANCE,
  )
  state = method.init(jax.random.key(0), None, batch)
  params = teacher = state.params

  def predict(params, images):
    return jax.nn.softmax(points.apply({'params': params}, images)['logits'])

  def objective(params, wanted):
    likely = jnp.log(predict(params, source['image']))
    task = -jnp.mean(likely[np.arange(8), source['label']])
    sure = wanted.max(1) >= THRESHOLD
    predicted = predict(params, strong)
    gap = jnp.sum((predicted - wanted)[sure] ** 2) / (8 * 3)
    mean = jnp.mean(predicted, 0)
    uneven = -jnp.sum(jnp.log(mean + 1e-6) + 2 * jnp.log(1 - mean + 1e-6)) / 3
    return task + STRENGTH * (gap + BALANCE * uneven * np.mean(sure))

  for t in range(1, 4):
    wanted = np.asarray(predict(teacher, weak))
    assert t > 1 or 0 < np.sum(wanted.max(1) >= THRESHOLD) < 8
    value, grads = jax.value_and_grad(objective)(params, wanted)
    params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
    keep = min(t / (t + 1), 0.6)
    teacher = jax.tree.map(
      lambda a, p, keep=keep: keep * a + (1 - keep) * p, teacher, params
    )
    state, metrics = method.step(state, batch)
    np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  student = state.memory['student']['params']
  chex.assert_trees_all_close(student, params, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_close(state.params, teacher, rtol=1e-4, atol=1e-6)
  logits = method.predict(state, weak)
  np.testing.assert_allclose(jax.nn.softmax(logits), predict(teacher, weak), rtol=1e-5)


def test_the_teachers_statistics_are_the_targets(model, family_batches):
  batch = family_batches['adaptation'](0)
  method = mean_teacher.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch)
  step = jax.jit(method.step)
  source, target = batch['source'], batch['target']['image']
  after = step(state, batch)[0].model_state['batch_stats']
  other = step(state, {**batch, 'source': {**source, 'image': target}})[0]
  chex.assert_trees_all_equal(after, other.model_state['batch_stats'])
  rngs = {'dropout': jax.random.key(0)}  # it comes after the first norm
  _, wanted = model.apply(
    state.variables, target, train=True, mutable=['batch_stats'], rngs=rngs
  )
  first, second = (x['backbone']['stage1'] for x in (after, wanted['batch_stats']))
  chex.assert_trees_all_close(first, second, rtol=1e-4, atol=1e-6)
