import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import losses
from tljax.adaptation import cdan
from tljax.adaptation.adversarial import Discriminator, reverse_gradient


@pytest.mark.parametrize('entropy', [False, True])
def test_the_published_loss(check_reference, library_entropy, shared_data, entropy):
  """As `method` puts it together, with one linear layer for a discriminator."""
  with np.load(shared_data / 'reference' / 'losses.npz') as file:
    weight = file['input/cdan_weight'].T
    logits = [file[f'input/{name}'] for name in ('logits_s', 'logits_t')]

  def loss(*features):
    predictions = [jax.nn.softmax(jnp.asarray(x)) for x in logits]
    weights = losses.certainty_weights(jnp.concatenate([*map(jnp.asarray, logits)]))
    maps = [
      cdan.multilinear_map(reverse_gradient(f, 0.5), p)
      for f, p in zip(features, predictions, strict=True)
    ]
    scores = [(x @ jnp.asarray(weight))[:, 0] for x in maps]
    if not entropy:
      return losses.domain_cross_entropy(*scores)
    return losses.domain_cross_entropy(*scores, weights[:24], weights[24:])

  name = f'cdan_entropy={entropy}_reversal=0.5'
  check_reference(name, loss, ['feature_s', 'feature_t'])


def test_multilinear_map_by_hand():
  features, predictions = jnp.array([[1.0, 2, 3]]), jnp.array([[0.25, 0.75]])
  expected = [[0.25, 0.5, 0.75, 0.75, 1.5, 2.25]]
  np.testing.assert_allclose(cdan.multilinear_map(features, predictions), expected)
  random_map = {
    'features': jnp.array([[1.0, 0], [0, 1], [1, -1], [0, 0]])[:3],
    'predictions': jnp.array([[4.0, 0], [0, 2]]),
  }
  expected = np.array([[4.0 * 1.0, -1.0 * 1.5]]) / np.sqrt(2)
  got = cdan.multilinear_map(features, predictions, random_map)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_random_map_keeps_inner_products():
  """Their mean over many drawn columns is that of the whole product."""
  keys = jax.random.split(jax.random.key(0), 4)
  features, predictions = (
    jax.random.normal(k, (2, n)) for k, n in zip(keys, (3, 2), strict=False)
  )
  random_map = {
    'features': jax.random.normal(keys[2], (3, 400_000)),
    'predictions': jax.random.normal(keys[3], (2, 400_000)),
  }
  whole = cdan.multilinear_map(features, predictions)
  random = cdan.multilinear_map(features, predictions, random_map)
  np.testing.assert_allclose(random @ random.T, whole @ whole.T, atol=0.05)


@pytest.mark.parametrize('entropy', [False, True])
@pytest.mark.parametrize('widest', [18, 17])
def test_one_step_is_the_two_optimisers_min_max(points, points_batch, entropy, widest):
  """The features descend - strength x the domain loss, the discriminator its own."""
  rate, strength, discriminator = 0.1, 0.7, Discriminator(width=5)
  method = cdan.method(
    points,
    optax.sgd(rate),
    strength=strength,
    entropy=entropy,
    widest=widest,
    random_width=7,
    discriminator=discriminator,
  )
  state = method.init(jax.random.key(0), None, points_batch)
  assert ('random_map' in state.params) == (widest < 6 * 3)
  extra = ('discriminator', 'random_map')
  mine = {k: v for k, v in state.params.items() if k not in extra}
  source, target = points_batch['source'], points_batch['target']

  def domain_loss(mine, theirs):
    total, weights = 0.0, []
    for sign, domain in ((1, source), (-1, target)):
      outputs = points.apply({'params': mine}, domain['image'])
      p = jax.lax.stop_gradient(nn.softmax(outputs['logits']))
      if widest < 18:
        maps = state.params['random_map']
        joint = (outputs['features'] @ maps['features']) * (p @ maps['predictions'])
        joint = joint / 7**0.5
      else:
        joint = jnp.einsum('nk,nd->nkd', p, outputs['features']).reshape(len(p), -1)
      scores = discriminator.apply({'params': theirs}, joint)
      weight = 1 + jnp.exp(jnp.sum(p * jnp.log(p), 1)) if entropy else jnp.ones(len(p))
      total += jnp.sum(weight * jnp.log(1 + jnp.exp(-sign * scores)))
      weights.append(weight)
    return total / jnp.sum(jnp.concatenate(weights))

  def model_loss(mine, theirs):
    logits = points.apply({'params': mine}, source['image'])['logits']
    task = losses.cross_entropy(logits, source['label'])
    return task - strength * domain_loss(mine, theirs)

  theirs = state.params['discriminator']
  descents = {
    **jax.grad(model_loss)(mine, theirs),
    'discriminator': jax.grad(domain_loss, 1)(mine, theirs),
  }
  if widest < 18:
    descents['random_map'] = jax.tree.map(jnp.zeros_like, state.params['random_map'])
  wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, descents)
  after, _ = method.step(state, points_batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)


def test_weight_decay_spares_the_random_map(points, points_batch, raw):
  method = cdan.method(points, optax.adamw(1e-2, weight_decay=0.1), widest=1)
  state = method.init(jax.random.key(0), None, points_batch)
  after, _ = method.step(state, points_batch)
  before, after = raw(state.params), raw(after.params)
  same = {name.split('/')[0] for name in before if before[name] == after[name]}
  assert same == {'random_map'}
