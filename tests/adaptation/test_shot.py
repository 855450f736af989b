import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import shot

RATE, STRENGTH, SMOOTHING, DECAY = 0.1, 0.5, 0.2, 0.8


def softmax(z):
  return np.exp(z) / np.sum(np.exp(z), -1, keepdims=True)


def test_information(check_slow):
  def slow(logits):
    p = softmax(logits)
    mean = p.mean(0)
    return np.mean(np.sum(p * np.log(p), 1)) - np.sum(mean * np.log(mean))

  check_slow(shot.information, slow, np.random.default_rng(0).normal(size=(5, 3)))


def test_information_is_whole_where_each_class_is_certain():
  """And no infinity makes it a NaN."""
  np.testing.assert_allclose(shot.information(200 * jnp.eye(3)), np.log(3), rtol=1e-5)
  np.testing.assert_allclose(shot.information(jnp.ones((4, 3))), 0, atol=1e-6)


def slow_labels(features, predictions, memory, decay):
  """The paper's rounds by loops; a class without a member has no centroid."""

  def nearest(x, centroids):
    cosines = {
      k: x @ c / np.linalg.norm(x) / np.linalg.norm(c) for k, c in centroids.items()
    }
    return max(cosines, key=cosines.get)

  sums, shares = [], predictions
  for old in memory:
    sums.append(
      [
        decay * old[k] + sum(w[k] * x for w, x in zip(shares, features, strict=True))
        for k in range(predictions.shape[1])
      ]
    )
    centroids = {k: c for k, c in enumerate(sums[-1]) if np.any(c)}
    labels = [nearest(x, centroids) for x in features]
    shares = np.eye(predictions.shape[1])[labels]
  return labels, np.array(sums)


def test_pseudo_labels_of_one_batch_and_the_next():
  rng = np.random.default_rng(1)
  memory = np.zeros((2, 4, 5))
  for count in (3, 6, 6):  # of three, one class has no member
    features, logits = rng.normal(size=(count, 5)), rng.normal(size=(count, 4))
    got = shot.pseudo_label(*map(jnp.float32, (features, logits, memory)), DECAY)
    labels, memory = slow_labels(features, softmax(logits), memory, DECAY)
    np.testing.assert_array_equal(got[0], labels)
    np.testing.assert_allclose(got[1], memory, rtol=1e-4, atol=1e-6)
    assert len(set(labels)) > 1 and labels != logits.argmax(1).tolist()


def test_the_source_comes_first_and_then_the_target_alone(points, points_batch):
  method = shot.method(
    points,
    optax.sgd(RATE, momentum=0.9),
    source_steps=1,
    strength=STRENGTH,
    label_smoothing=SMOOTHING,
    decay=DECAY,
  )
  state = method.init(jax.random.key(0), None, points_batch)
  source, target = points_batch['source'], points_batch['target']['image']

  def outputs(params, images):
    return points.apply({'params': params}, images)

  def task(params):
    likely = jax.nn.log_softmax(outputs(params, source['image'])['logits'])
    wanted = (1 - SMOOTHING) * np.eye(3)[source['label']] + SMOOTHING / 3
    return -jnp.mean(jnp.sum(wanted * likely, 1))

  grads = jax.grad(task)(state.params)
  params = jax.tree.map(lambda p, g: p - RATE * g, state.params, grads)
  state, metrics = method.step(state, points_batch)
  np.testing.assert_array_equal(state.memory, 0)
  chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)

  seen = outputs(params, target)
  labels, sums = slow_labels(
    *map(np.asarray, (seen['features'], jax.nn.softmax(seen['logits']))),
    np.zeros((2, 3, 6)),
    DECAY,
  )

  def adapt(hidden):
    p = jax.nn.softmax(outputs({**params, 'hidden': hidden}, target)['logits'])
    mean = jnp.mean(p, 0)
    known = jnp.mean(jnp.sum(p * jnp.log(p), 1)) - jnp.sum(mean * jnp.log(mean))
    return -known - STRENGTH * jnp.mean(jnp.log(p[np.arange(8), labels]))

  value, new = jax.value_and_grad(adapt)(params['hidden'])
  # Without the first phase's momentum: the authors build another optimiser.
  hidden = jax.tree.map(lambda p, g: p - RATE * g, params['hidden'], new)
  blind = {**points_batch, 'source': {k: v * 0 for k, v in source.items()}}
  after, metrics = method.step(state, blind)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  chex.assert_trees_all_close(after.params['hidden'], hidden, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_equal(after.params['head'], state.params['head'])
  np.testing.assert_allclose(after.memory, sums, rtol=1e-4, atol=1e-6)


def test_it_follows_clusters_that_turned(normed_points):
  """By 0.85 radians, where the source's network is right on seven in ten."""
  rng, angle = np.random.default_rng(0), 2 * np.pi / 3 * np.arange(3)
  centres = 3 * np.stack([np.cos(angle), np.sin(angle)], 1)

  def draw(turn):
    labels = rng.integers(0, 3, 400)
    points = centres[labels] + 0.6 * rng.normal(size=(400, 2))
    c, s = np.cos(turn), np.sin(turn)
    return np.float32(points @ [[c, s], [-s, c]]), labels.astype(np.int32)

  (images, labels), (others, truth) = draw(0), draw(0.85)
  method = shot.method(normed_points, optax.adam(5e-3), source_steps=100)
  step, accuracies = jax.jit(method.step), []
  batch = {'source': {'image': images, 'label': labels}, 'target': {'image': others}}
  state = method.init(jax.random.key(0), None, batch)
  for _ in range(2):
    for _ in range(100):
      state, _ = step(state, batch)
    accuracies.append(np.mean(method.predict(state, others).argmax(1) == truth))
  assert accuracies[0] < 0.8 and accuracies[1] > 0.97, accuracies
