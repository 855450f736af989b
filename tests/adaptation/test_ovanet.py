import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import ovanet


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def odds(detectors, features):
  """By vectors of length 1, those for a class before those against it."""
  units = [w / jnp.sqrt(jnp.sum(w**2)) for w in detectors['kernel'].T]
  votes = jnp.stack([features @ unit for unit in units], 1)
  return votes[:, :2] - votes[:, 2:]


def test_one_versus_all(check_slow):
  labels = np.int32([2, 0, 1, 2])

  def slow(odds):
    total = 0.0
    for row, y in zip(sigmoid(odds), labels, strict=True):
      total -= np.log(row[y]) + min(np.log(1 - row[k]) for k in range(3) if k != y)
    return total / 4

  odds = np.random.default_rng(0).normal(size=(4, 3)) * 2
  check_slow(lambda odds: ovanet.one_versus_all(odds, labels), slow, odds)


def test_one_step(headed_points, points_batch):
  """All descend one loss; of two classes and 'unknown'."""
  rate, source = 0.1, points_batch['source']
  source = {**source, 'label': source['label'] % 2}
  batch = {**points_batch, 'source': source}
  method = ovanet.method(headed_points, optax.sgd(rate), strength=0.3)
  state = method.init(jax.random.key(0), None, batch)

  def objective(params):
    def run(images):
      outputs = headed_points.apply({'params': params}, images)
      return outputs['logits'], odds(params['detectors'], outputs['features'])

    logits, known = run(source['image'])
    task = -jnp.mean(nn.log_softmax(logits)[np.arange(8), source['label']])
    p = nn.sigmoid(run(batch['target']['image'])[1])
    entropy = -jnp.mean(p * jnp.log(p) + (1 - p) * jnp.log(1 - p))
    return task + ovanet.one_versus_all(known, source['label']) / 2 + 0.3 * entropy

  loss, grads = jax.value_and_grad(objective)(state.params)
  wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, grads)
  after, metrics = method.step(state, batch)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)


def test_unknown_is_what_the_likeliest_class_denies(headed_points, points_batch):
  method = ovanet.method(headed_points, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, points_batch)
  images = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32) * 3
  outputs = headed_points.apply(state.variables, images)
  p = sigmoid(np.asarray(odds(state.params['detectors'], outputs['features'])))
  known = np.asarray(outputs['logits'])[:, :2]
  wanted = [
    k if row[k] >= 0.5 else 2 for k, row in zip(known.argmax(1), p, strict=True)
  ]
  logits = np.asarray(method.predict(state, images))
  assert logits.argmax(1).tolist() == wanted and set(wanted) == {0, 1, 2}
  np.testing.assert_array_equal(logits[:, :2], known)
