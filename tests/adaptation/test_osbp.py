import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import osbp


@pytest.mark.parametrize('share', [0.5, 0.2])
def test_boundary(check_slow, share):
  def slow(logits):
    total = 0.0
    for z in logits:
      p = np.exp(z[-1]) / np.sum(np.exp(z))
      total -= share * np.log(p) + (1 - share) * np.log(1 - p)
    return total / len(logits)

  logits = np.random.default_rng(0).normal(size=(5, 4)) * 2
  check_slow(lambda logits: osbp.boundary(logits, share), slow, logits)


def test_the_boundary_is_least_at_the_share_and_finite_far_from_it():
  logits = jnp.float32([[0, 0, jnp.log(2 * 0.25)]])  # odds of 1 to 4
  np.testing.assert_allclose(jax.grad(osbp.boundary)(logits, 0.2), 0, atol=1e-6)
  value, gradient = jax.value_and_grad(osbp.boundary)(jnp.float32([[0, 0, 500]]))
  np.testing.assert_allclose(value, 250 - np.log(2) / 2, rtol=1e-5)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
  ('options', 'strength', 'share'),
  [({}, 1.0, 0.5), ({'strength': 0.3, 'share': 0.2}, 0.3, 0.2)],
)
def test_one_step_is_the_minimax(headed_points, points_batch, options, strength, share):
  """The head descends task + boundary, the features task - strength x boundary."""
  rate, source = 0.1, points_batch['source']
  source = {**source, 'label': source['label'] % 2}  # the third class is 'unknown'
  batch = {**points_batch, 'source': source}
  method = osbp.method(headed_points, optax.sgd(rate), **options)
  state = method.init(jax.random.key(0), None, batch)

  def terms(params):
    def predict(images):
      odds = jnp.exp(headed_points.apply({'params': params}, images)['logits'])
      return odds / jnp.sum(odds, 1, keepdims=True)

    task = -jnp.mean(jnp.log(predict(source['image'])[np.arange(8), source['label']]))
    p = predict(batch['target']['image'])[:, 2]
    return task, -jnp.mean(share * jnp.log(p) + (1 - share) * jnp.log(1 - p))

  task, gap = (jax.grad(lambda p, i=i: terms(p)[i])(state.params) for i in (0, 1))
  wanted = {
    part: jax.tree.map(
      lambda w, a, b, sign=sign: w - rate * (a + sign * b),
      *(tree[part] for tree in (state.params, task, gap)),
    )
    for part, sign in {'backbone': -strength, 'head': 1.0}.items()
  }
  after, metrics = method.step(state, batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics['alignment_loss'], terms(state.params)[1], 1e-4)
