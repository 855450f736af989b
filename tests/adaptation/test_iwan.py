import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import iwan
from tljax.adaptation.adversarial import Discriminator


def test_importance_by_hand():
  """Probabilities of the source 3/4, 1/2, 1/4 leave 1, 2 and 3 quarters."""
  logits = np.log(np.float32([3, 1, 1 / 3]))
  np.testing.assert_allclose(iwan.importance(logits), [0.5, 1.0, 1.5], rtol=1e-6)
  sure = jnp.float32([200, 200, 201])  # whose share of the target underflows
  e = np.exp(-1)
  wanted = np.array([1, 1, e]) * 3 / (2 + e)
  np.testing.assert_allclose(iwan.importance(sure), wanted, rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(iwan.importance(x) ** 2))(logits)
  np.testing.assert_array_equal(gradient, 0)


def test_one_step(points, points_batch):
  """Each discriminator descends its loss; the features see the second alone."""
  strength, gamma, rate, narrow = 0.7, 0.3, 0.1, Discriminator(width=5)
  source, target = points_batch['source'], points_batch['target']
  method = iwan.method(
    points, optax.sgd(rate), strength=strength, entropy=gamma, discriminator=narrow
  )
  state = method.init(jax.random.key(0), None, points_batch)
  outputs = points.apply({'params': state.params}, source['image'])
  first = narrow.apply({'params': state.params['weigher']}, outputs['features'])
  odds = 1 / (1 + np.exp(np.asarray(first)))
  weights = odds / odds.mean()

  def domain_loss(params, name, weights):
    def score(images):
      features = points.apply({'params': params}, images)['features']
      return narrow.apply({'params': params[name]}, features)

    gaps = [jnp.log(1 + jnp.exp(-score(source['image'])))]
    gaps += [jnp.log(1 + jnp.exp(score(target['image'])))]
    return (jnp.mean(weights * gaps[0]) + jnp.mean(gaps[1])) / 2

  def model_loss(params):
    logits = points.apply({'params': params}, source['image'])['logits']
    task = -jnp.mean(nn.log_softmax(logits)[np.arange(8), source['label']])
    logits = points.apply({'params': params}, target['image'])['logits']
    p = nn.softmax(logits)
    uncertain = -jnp.sum(p * jnp.log(p)) / len(p)
    domain = domain_loss(params, 'discriminator', weights)
    return task + gamma * uncertain - strength * domain

  descents = jax.grad(model_loss)(state.params)
  for name, scale in (('weigher', 1.0), ('discriminator', weights)):
    descents[name] = jax.grad(domain_loss)(state.params, name, scale)[name]
  wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, descents)
  after, _ = method.step(state, points_batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)
