import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import fixmatch

RATE, STRENGTH, THRESHOLD = 0.1, 0.7, 0.6


def build(points, batch, **options):
  method = fixmatch.method(
    points, optax.sgd(RATE), strength=STRENGTH, threshold=THRESHOLD, **options
  )
  return method, method.init(jax.random.key(0), None, batch)


def test_one_step(points, points_batch):
  source, weak = points_batch['source'], points_batch['target']['image']
  strong = weak + np.float32(0.5)
  batch = {'source': source, 'target': {'image': weak, 'strong': strong}}
  method, state = build(points, batch)

  def logits(params, images):
    return points.apply({'params': params}, images)['logits']

  sure = np.asarray(jax.nn.softmax(logits(state.params, weak)))
  rows = np.flatnonzero(sure.max(1) >= THRESHOLD)
  assert 0 < len(rows) < 8

  def objective(params):
    likely = jax.nn.log_softmax(logits(params, source['image']))
    task = -jnp.mean(likely[np.arange(8), source['label']])
    likely = jax.nn.log_softmax(logits(params, strong))
    return task - STRENGTH * jnp.sum(likely[rows, sure.argmax(1)[rows]]) / 8

  grads = jax.grad(objective)(state.params)
  after, metrics = method.step(state, batch)
  wanted = jax.tree.map(lambda p, g: p - RATE * g, state.params, grads)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], objective(state.params), rtol=1e-5)


def test_a_missing_view_is_drawn_anew_each_step(points, points_batch):
  seen = []

  def shake(key, images):
    seen.append(images + jax.random.normal(key, images.shape))
    return seen[-1]

  method, state = build(points, points_batch, augment=shake)
  after, metrics = method.step(state, points_batch)
  target = {**points_batch['target'], 'strong': seen[0]}
  _, given = method.step(state, {**points_batch, 'target': target})
  assert len(seen) == 1  # the stream's own is taken where there is one
  np.testing.assert_allclose(metrics['loss'], given['loss'], rtol=1e-6)
  method.step(after, points_batch)
  assert not np.allclose(seen[0], seen[1])
