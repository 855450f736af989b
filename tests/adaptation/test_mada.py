import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import losses
from tljax.adaptation import mada
from tljax.adaptation.adversarial import Discriminator


def test_one_step_is_the_min_max_of_every_class(points, points_batch):
  """The features descend - strength x the domain losses, the discriminators theirs."""
  rate, strength, discriminator = 0.1, 0.7, Discriminator(width=5)
  method = mada.method(
    points, optax.sgd(rate), strength=strength, discriminator=discriminator
  )
  state = method.init(jax.random.key(0), None, points_batch)
  mine = {k: v for k, v in state.params.items() if k != 'discriminators'}
  theirs = state.params['discriminators']
  source, target = points_batch['source'], points_batch['target']

  def domain_loss(mine, theirs):
    total = 0.0
    for sign, domain in ((1, source), (-1, target)):
      outputs = points.apply({'params': mine}, domain['image'])
      p = jax.lax.stop_gradient(nn.softmax(outputs['logits']))
      for k in range(3):
        its = jax.tree.map(lambda x, k=k: x[k], theirs)
        seen = p[:, k : k + 1] * outputs['features']
        scores = discriminator.apply({'params': its}, seen)
        total += jnp.mean(jnp.log(1 + jnp.exp(-sign * scores))) / 2
    return total

  def model_loss(mine, theirs):
    logits = points.apply({'params': mine}, source['image'])['logits']
    task = losses.cross_entropy(logits, source['label'])
    return task - strength * domain_loss(mine, theirs)

  descents = {
    **jax.grad(model_loss)(mine, theirs),
    'discriminators': jax.grad(domain_loss, 1)(mine, theirs),
  }
  wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, descents)
  after, metrics = method.step(state, points_batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)
  value = domain_loss(mine, theirs)
  np.testing.assert_allclose(metrics['alignment_loss'], value, rtol=1e-5)


def test_every_class_has_a_discriminator_drawn_by_itself(points, points_batch):
  method = mada.method(points, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, points_batch)
  kernels = np.asarray(state.params['discriminators']['Dense_0']['kernel'])
  assert kernels.shape == (3, 6, 256)
  assert len({kernel.tobytes() for kernel in kernels}) == 3
