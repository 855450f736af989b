import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import co_training
from tljax.models.base import Linear

RATE, STRENGTH, THRESHOLD, DIFFERENCE = 0.1, 0.7, 0.6, 0.05


def test_agree_by_hand():
  first = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]))
  second = jnp.log(jnp.array([[0.6, 0.4], [0.7, 0.3], [0.1, 0.9], [0.1, 0.9]]))
  labels, sure = co_training.agree(first, second, 0.85)
  np.testing.assert_array_equal(labels, [0, 0, 0, 1])
  np.testing.assert_array_equal(sure, [1, 0, 0, 1])  # unsure, and of two minds


def test_overlap(check_slow):
  first, second = np.random.default_rng(0).normal(size=(2, 4, 3))

  def slow(first, second):
    columns = [(a, b) for a in first.T for b in second.T]
    return sum(abs(sum(x * y for x, y in zip(a, b, strict=True))) for a, b in columns)

  def overlap(first, second):
    heads = ({'kernel': w, 'bias': jnp.ones(3)} for w in (first, second))
    return co_training.overlap(*heads)

  check_slow(overlap, slow, first, second)


@pytest.mark.parametrize('source_steps', [1, 0])
def test_one_step_of_each_phase(points, points_batch, source_steps):
  head = Linear(3)
  method = co_training.method(
    points,
    optax.sgd(RATE),
    strength=STRENGTH,
    source_steps=source_steps,
    threshold=THRESHOLD,
    difference=DIFFERENCE,
    labeller=head,
  )
  state = method.init(jax.random.key(0), None, points_batch)
  # With heads that are sure and nearly alike, so that they agree on something.
  sure = jax.tree.map(lambda x: 2 * x, state.params['first_labeller'])
  near = jax.tree.map(lambda x: x + 0.3 * jnp.cos(7 * x), sure)
  heads = dict(zip(co_training.LABELLERS, (sure, near), strict=True))
  state = state.replace(params=state.params | heads)
  source, target = points_batch['source'], points_batch['target']['image']

  def predict(params, images):
    outputs = points.apply(
      {'params': {k: params[k] for k in ('hidden', 'head')}}, images
    )
    heads = [params[name] for name in co_training.LABELLERS]
    logits = [outputs['logits'], *(head.apply({'params': p}, outputs) for p in heads)]
    return [jax.nn.softmax(x) for x in logits]

  guesses = np.asarray(predict(state.params, target)[1:])
  same = guesses[0].argmax(1) == guesses[1].argmax(1)
  rows = np.flatnonzero(same & (guesses.max((0, 2)) >= THRESHOLD))
  labels = guesses[0].argmax(1)[rows]
  assert 0 < len(rows) < np.sum(same) < 8

  def objective(params):
    likely = [
      p[np.arange(8), source['label']] for p in predict(params, source['image'])
    ]
    total = -sum(jnp.mean(jnp.log(p)) for p in likely[0 if source_steps else 1 :])
    kernels = [params[name]['classifier']['kernel'] for name in co_training.LABELLERS]
    total += DIFFERENCE * jnp.sum(jnp.abs(kernels[0].T @ kernels[1]))
    if not source_steps:
      taught = [jnp.log(p[rows, labels]) for p in predict(params, target)]
      total -= STRENGTH * sum(jnp.mean(p) for p in taught)
    return total

  value, grads = jax.value_and_grad(objective)(state.params)
  after, metrics = method.step(state, points_batch)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  wanted = jax.tree.map(lambda p, g: p - RATE * g, state.params, grads)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)


def test_without_a_label_nothing_is_taught():
  """And its gradient is no division by nothing."""
  value, grad = jax.value_and_grad(co_training.mean_of_sure)(
    jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(2)
  )
  assert value == 0 and not np.any(grad)


def test_the_labellers_are_drawn_apart_and_not_deployed(model, family_batches):
  batch = family_batches['adaptation'](0)
  method = co_training.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch)
  heads = [state.params[name] for name in ('head', *co_training.LABELLERS)]
  kernels = [tree['classifier']['kernel'] for tree in heads]
  assert len({kernel.tobytes() for kernel in map(np.asarray, kernels)}) == 3
  for name in co_training.LABELLERS:
    del state.params[name]
  assert method.predict(state, batch['target']['image']).shape == (16, 10)
