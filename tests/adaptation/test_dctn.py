import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import losses
from tljax.adaptation import dctn
from tljax.adaptation.adversarial import Discriminator
from tljax.models.base import Linear


def test_weigh(check_slow):
  def slow(logits, scores):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    perplexity = -np.log(1 - 1 / (1 + np.exp(-scores)))
    mean = (p * perplexity[..., None]).sum(0) / perplexity.sum(0)[:, None]
    return np.sum(np.log(mean) * np.arange(12).reshape(4, 3))

  def weighted(logits, scores):
    numbers = jnp.arange(12.0).reshape(4, 3)
    return jnp.sum(dctn.weigh(logits, scores) * numbers)

  rng = np.random.default_rng(0)
  check_slow(weighted, slow, rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4)))


def test_one_step_is_the_min_max_of_every_domain(points, two_sources):
  rate, strength, head, critic = 0.1, 0.7, Linear(3), Discriminator(width=5)
  method = dctn.method(
    points,
    optax.sgd(rate),
    strength=strength,
    discriminator=critic,
    classifier=head,
    domains=2,
  )
  state = method.init(jax.random.key(0), None, two_sources)
  critics, params = state.params['discriminators'], dict(state.params)
  mine = {k: v for k, v in params.items() if k != 'discriminators'}
  source, target = two_sources['source'], two_sources['target']

  def outputs(mine, images):
    shared = {k: v for k, v in mine.items() if k != 'classifiers'}
    return points.apply({'params': shared}, images)

  def domain_loss(mine, critics):
    total = 0.0
    for k in (0, 1):
      own = jax.tree.map(lambda x, k=k: x[k], critics)
      for sign, images in ((1, source['image'][k::2]), (-1, target['image'])):
        scores = critic.apply({'params': own}, outputs(mine, images)['features'])
        total += jnp.mean(jnp.log(1 + jnp.exp(-sign * scores))) / 2
    return total / 2

  def model_loss(mine, critics):
    logits = outputs(mine, source['image'])['logits']
    total = losses.cross_entropy(logits, source['label'])
    for k in (0, 1):
      own = jax.tree.map(lambda x, k=k: x[k], mine['classifiers'])
      found = outputs(mine, source['image'][k::2])
      logits = head.apply({'params': own}, found)
      total += losses.cross_entropy(logits, source['label'][k::2]) / 2
    return total - strength * domain_loss(mine, critics)

  descents = {
    **jax.grad(model_loss)(mine, critics),
    'discriminators': jax.grad(domain_loss, 1)(mine, critics),
  }
  wanted = jax.tree.map(lambda p, g: p - rate * g, params, descents)
  after, _ = method.step(state, two_sources)
  chex.assert_trees_all_close(dict(after.params), wanted, rtol=1e-4, atol=1e-6)

  logits = method.predict(state, target['image'])
  np.testing.assert_allclose(jnp.sum(nn.softmax(logits), -1), np.ones(8), rtol=1e-5)
  kernels = np.asarray(params['classifiers']['classifier']['kernel'])
  assert kernels.shape == (2, 6, 3) and not np.array_equal(*kernels)


def test_one_domain_weighs_all_however_far_the_target_is():
  logits = jnp.float32(np.random.default_rng(0).normal(size=(1, 2, 3)))
  scores = jnp.float32([[-200.0, 3.0]])
  found, slopes = jax.value_and_grad(lambda s: jnp.sum(dctn.weigh(logits, s)))(scores)
  np.testing.assert_allclose(found, jnp.sum(jax.nn.log_softmax(logits)), rtol=1e-6)
  np.testing.assert_allclose(slopes, 0, atol=1e-6)
  two = dctn.weigh(
    jnp.concatenate([logits, logits]), jnp.float32([[-200, 3], [-9, -9]])
  )
  np.testing.assert_allclose(two, jax.nn.log_softmax(logits[0]), rtol=1e-5)
