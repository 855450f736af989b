import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.adaptation import group_dro


def test_two_steps_weigh_the_risks(points, two_sources):
  """By algorithm 1: the weights move first, and are constants to the gradient."""
  method = group_dro.method(points, optax.sgd(0.1), rate=0.7, domains=2)
  state = method.init(jax.random.key(0), None, two_sources)
  source, params, weights = two_sources['source'], state.params, np.full(2, 0.5)

  def risks(params):
    logits = points.apply({'params': params}, source['image'])['logits']
    likely = nn.log_softmax(logits)[np.arange(8), source['label']]
    return jnp.stack([-jnp.mean(likely[k::2]) for k in (0, 1)])

  for _ in range(2):
    weights = weights * np.exp(0.7 * np.asarray(risks(params)))
    weights = np.float32(weights / weights.sum())
    grads = jax.grad(lambda p, w=weights: jnp.sum(w * risks(p)))(params)
    wanted = jnp.sum(weights * risks(params))
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    state, metrics = method.step(state, two_sources)
    np.testing.assert_allclose(metrics['loss'], wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics['largest_weight'], weights.max(), rtol=1e-5)
  np.testing.assert_allclose(state.memory, weights, rtol=1e-5)
  chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)
