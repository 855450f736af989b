import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import wdgrl
from tljax.finetuning import labels


class LinearCritic(nn.Module):
  """Its gradient is the same wherever the points between the domains fall."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(1, name='dense')(x)[:, 0]


def test_gradient_penalty(check_slow):
  """Of a hidden layer, with its gradient by hand, and that gradient's by weights."""
  rng = np.random.default_rng(0)
  weights, out, points = (rng.normal(size=s) for s in ((3, 4), (4,), (5, 3)))

  def penalty(weights, out):
    return wdgrl.gradient_penalty(lambda x: jnp.tanh(x @ weights) @ out, points)

  def slow(weights, out):
    total = 0.0
    for x in points:
      slope = weights @ (out * (1 - np.tanh(x @ weights) ** 2))
      total += (np.sqrt(sum(slope**2)) - 1) ** 2
    return total / len(points)

  check_slow(penalty, slow, weights, out)


def test_a_flat_critic_has_a_finite_gradient():
  grad = jax.grad(lambda w: wdgrl.gradient_penalty(lambda x: x @ w, jnp.ones((2, 3))))
  assert np.all(np.isfinite(grad(jnp.zeros(3))))


def test_points_lie_between_pairs():
  source, target = jnp.array([[0.0, 0], [4, 8]]), jnp.array([[1.0, 1], [0, 4], [9, 9]])
  points = wdgrl.penalised_points(source, target, jnp.array([[1.0], [0.25]]))
  wanted = [[0, 0], [4, 8], [1, 1], [0, 4], [9, 9], [0, 0], [1, 5]]
  np.testing.assert_allclose(points, wanted)


def test_one_step(points, points_batch):
  rate, strength, penalty, steps, faster = 0.05, 0.5, 13.0, 3, 2.0
  method = wdgrl.method(
    points,
    optax.sgd(rate),
    strength=strength,
    critic_steps=steps,
    critic_rate=faster,
    penalty=penalty,
    critic=LinearCritic(),
  )
  state = method.init(jax.random.key(0), None, points_batch)
  source, target = points_batch['source'], points_batch['target']['image']
  mine = {k: v for k, v in state.params.items() if k != 'discriminator'}
  kernel = np.float64(state.params['discriminator']['dense']['kernel'])

  def outputs(params, images):
    return points.apply({'params': params}, images)

  gap = np.float64(
    outputs(mine, source['image'])['features'].mean(0)
    - outputs(mine, target)['features'].mean(0)
  )[:, None]
  clipped = []
  for _ in range(steps):
    length = np.sqrt(np.sum(kernel**2))
    ascent = gap - penalty * 2 * (length - 1) * kernel / length
    size = np.sqrt(np.sum(ascent**2))
    clipped.append(size > 1)
    kernel = kernel + faster * rate * ascent / max(size, 1)
  assert set(clipped) == {True, False}

  def objective(params):
    on_source = outputs(params, source['image'])
    likely = nn.log_softmax(on_source['logits'])[np.arange(8), source['label']]
    gap = on_source['features'].mean(0) - outputs(params, target)['features'].mean(0)
    return -jnp.mean(likely) + strength * gap @ jnp.float32(kernel)[:, 0]

  value, grads = jax.value_and_grad(objective)(mine)
  after, metrics = method.step(state, points_batch)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  found = dict(after.params)
  moved = found.pop('discriminator')['dense']['kernel']
  np.testing.assert_allclose(moved, kernel, rtol=1e-4, atol=1e-6)
  wanted = jax.tree.map(lambda p, g: p - rate * g, mine, grads)
  chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-6)
  assert int(after.step) == 1


def test_the_rate_of_the_critic_is_no_factor_of_its_gradient(points, points_batch):
  """Of which Adam's first step knows the sign alone."""
  critic, others = [], []
  for rate in (1.0, 3.0):
    options = {'strength': 0.0, 'critic_steps': 1, 'critic_rate': rate}
    method = wdgrl.method(points, optax.adam(0.01), critic=LinearCritic(), **options)
    before = method.init(jax.random.key(0), None, points_batch)
    after = method.step(before, points_batch)[0]
    moved = jax.tree.map(lambda a, b: np.abs(a - b), after.params, before.params)
    critic.append(moved.pop('discriminator')['dense']['kernel'])
    others.append(moved)
  np.testing.assert_allclose(critic[0], 0.01, rtol=1e-3)
  np.testing.assert_allclose(critic[1], 0.03, rtol=1e-3)
  chex.assert_trees_all_equal(*others)
  for leaf in jax.tree.leaves(others[0]):  # the critic's updates are not counted
    np.testing.assert_allclose(np.max(leaf), 0.01, rtol=1e-3)


def test_a_part_of_the_model_may_be_frozen(points, points_batch):
  """By a pattern of leaves, of which the critic's own optimiser sees none."""
  model, optimizer = labels.freeze(points, optax.adam(0.01), 'hidden/kernel')
  method = wdgrl.method(model, optimizer, critic=LinearCritic())
  before = method.init(jax.random.key(0), None, points_batch)
  after, _ = method.step(before, points_batch)
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.params, before.params)
  assert moved['hidden'] == {'kernel': False, 'bias': True}
  assert moved['discriminator']['dense']['kernel']
