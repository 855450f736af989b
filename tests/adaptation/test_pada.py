import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import pada
from tljax.adaptation.adversarial import Discriminator


@pytest.fixture
def build(points):
  """Returns `options -> method`, of a small discriminator."""

  def build(**options):
    return pada.method(points, optax.sgd(0.1), discriminator=NARROW, **options)

  return build


NARROW = Discriminator(width=5)
SHARES = np.float32([0.5, 0.125, 0.25])


def test_one_step_weighs_the_sources_classes(build, points, points_batch):
  """The model descends task - strength x domain loss, the discriminator its own."""
  strength, rate, source = 0.7, 0.1, points_batch['source']
  method = build(strength=strength)
  state = method.init(jax.random.key(0), None, points_batch)
  state = state.replace(memory=jnp.array(SHARES))
  weights = (SHARES / 0.5)[source['label']]

  def terms(params):
    def logits(images):
      outputs = points.apply({'params': params}, images)
      score = NARROW.apply({'params': params['discriminator']}, outputs['features'])
      return outputs['logits'], score

    known, first = logits(source['image'])
    _, second = logits(points_batch['target']['image'])
    each = -nn.log_softmax(known)[np.arange(8), source['label']]
    task = jnp.sum(weights * each) / weights.sum()
    domain = weights * jnp.log(1 + jnp.exp(-first))
    return task, (jnp.mean(domain) + jnp.mean(jnp.log(1 + jnp.exp(second)))) / 2

  task, domain = (jax.grad(lambda p, i=i: terms(p)[i])(state.params) for i in (0, 1))
  wanted = {
    part: jax.tree.map(
      lambda w, a, b, sign=1 if part == 'discriminator' else -strength: (
        w - rate * (a + sign * b)
      ),
      *(tree[part] for tree in (state.params, task, domain)),
    )
    for part in state.params
  }
  after, metrics = method.step(state, points_batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)
  values = terms(state.params)
  np.testing.assert_allclose(metrics['task_loss'], values[0], rtol=1e-5)
  np.testing.assert_allclose(metrics['alignment_loss'], values[1], rtol=1e-5)
  assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize('decay', [0.0, 0.9])
def test_memory_is_the_running_mean_prediction(build, points, points_batch, decay):
  method = build(decay=decay)
  state = method.init(jax.random.key(0), None, points_batch)
  wanted = np.full(3, 1 / 3)
  np.testing.assert_allclose(state.memory, wanted, rtol=1e-6)
  for _ in range(3):
    variables = {'params': state.params}
    logits = points.apply(variables, points_batch['target']['image'])['logits']
    odds = np.exp(np.asarray(logits))
    shares = (odds / odds.sum(1, keepdims=True)).mean(0)
    wanted = decay * wanted + (1 - decay) * shares
    state, _ = method.step(state, points_batch)
    np.testing.assert_allclose(state.memory, wanted, rtol=1e-5)
