import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import bsp, dann
from tljax.adaptation.adversarial import Discriminator


def test_largest_singular_value(check_slow):
  """By power iteration."""

  def slow(features):
    vector = np.ones(3)
    for _ in range(500):
      vector = features.T @ (features @ vector)
      vector /= np.linalg.norm(vector)
    return np.linalg.norm(features @ vector)

  features = np.random.default_rng(0).normal(size=(5, 3)) * [3, 1, 0.5]
  check_slow(bsp.largest_singular_value, slow, features)


def test_the_published_penalty(check_reference):
  def penalty(source, target):
    values = [bsp.largest_singular_value(x) for x in (source, target)]
    return values[0] ** 2 + values[1] ** 2

  check_reference('bsp', penalty, ['feature_s', 'feature_t'])


def test_one_step_is_danns_and_the_penaltys(points, points_batch):
  rate, options = 0.1, {'strength': 0.7, 'discriminator': Discriminator(width=8)}
  penalised, plain = (
    build(points, optax.sgd(rate), **options, **more)
    for build, more in ((bsp.method, {'penalty': 0.03}), (dann.method, {}))
  )
  state = penalised.init(jax.random.key(0), None, points_batch)

  def penalty(params):
    total = 0.0
    for domain in points_batch.values():
      x = points.apply({'params': params}, domain['image'])['features']
      total += jnp.linalg.eigvalsh(x.T @ x)[-1]
    return 0.03 * total

  mine = {k: v for k, v in state.params.items() if k != 'discriminator'}
  value, grads = jax.value_and_grad(penalty)(mine)
  grads['discriminator'] = jax.tree.map(jnp.zeros_like, state.params['discriminator'])
  after, metrics = penalised.step(state, points_batch)
  base, base_metrics = plain.step(state, points_batch)
  np.testing.assert_allclose(metrics['loss'], base_metrics['loss'] + value, rtol=1e-5)
  wanted = jax.tree.map(lambda p, g: p - rate * g, base.params, grads)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6),
    after.params,
    wanted,
  )
