import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import adaptation, losses
from tljax.adaptation.alignment import align
from tljax.method import apply_train


def gap(params, source, target, strength):
  del params
  means = [jnp.mean(outputs['features'], 0) for outputs in (source, target)]
  return strength * jnp.sum((means[0] - means[1]) ** 2)


def test_loss_is_source_cross_entropy_plus_the_term_in_one_forward_pass(
  model, family_batches
):
  batch = family_batches['adaptation'](0)
  # Unequal domains: the split must be at the source's length.
  batch = {
    'source': jax.tree.map(lambda x: x[:10], batch['source']),
    'target': batch['target'],
  }
  method = align(
    model, optax.sgd(0.1), gap, strength=lambda step: 0.5 + step.astype(jnp.float32)
  )
  state = method.init(jax.random.key(0), None, batch).replace(step=jnp.int32(2))
  rng = jax.random.fold_in(state.rng, 2)
  images = np.concatenate([batch['source']['image'], batch['target']['image']])
  outputs, model_state = apply_train(model, state.params, state, images, rng)
  features = np.asarray(outputs['features'])
  task = losses.cross_entropy(outputs['logits'][:10], batch['source']['label'])
  distance = np.sum((features[:10].mean(0) - features[10:].mean(0)) ** 2)

  after, metrics = method.step(state, batch)
  np.testing.assert_allclose(metrics['task_loss'], task, rtol=1e-5)
  np.testing.assert_allclose(metrics['strength'], 2.5)
  np.testing.assert_allclose(metrics['alignment_loss'], 2.5 * distance, rtol=1e-4)
  np.testing.assert_allclose(metrics['loss'], task + 2.5 * distance, rtol=1e-4)
  for got, want in zip(
    jax.tree.leaves(after.model_state), jax.tree.leaves(model_state), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_labelled_examples_of_the_target_count_as_those_of_the_source(
  points, points_batch
):
  few = {'image': points_batch['target']['image'][:3], 'label': np.int32([2, 0, 1])}
  source = points_batch['source']
  method = align(points, optax.sgd(0.1), gap, strength=2.0)
  state = method.init(jax.random.key(0), None, points_batch)
  _, metrics = method.step(state, {**points_batch, 'labelled': few})
  losses = []
  for part in (source, few):
    logits = np.asarray(points.apply(state.variables, part['image'])['logits'])
    odds = np.exp(logits)
    p = odds / odds.sum(1, keepdims=True)
    losses += [-np.log(row[k]) for row, k in zip(p, part['label'], strict=True)]
  np.testing.assert_allclose(metrics['task_loss'], np.mean(losses), rtol=1e-5)
  # The term is of the source and the unlabelled target as before.
  _, without = method.step(state, points_batch)
  np.testing.assert_allclose(
    metrics['alignment_loss'], without['alignment_loss'], rtol=1e-5
  )
  assert metrics['task_loss'] != without['task_loss']


def test_a_strong_term_closes_the_gap(model, family_batches):
  batch = family_batches['adaptation'](0)
  distances = {}
  for strength in (0.0, 10.0):
    method = align(model, optax.adam(3e-3), gap, strength=strength)
    state = method.init(jax.random.key(0), None, batch)
    step = jax.jit(method.step)
    for _ in range(20):
      state, _ = step(state, batch)
    outputs = model.apply(state.variables, batch['source']['image'])
    others = model.apply(state.variables, batch['target']['image'])
    distances[strength] = gap(None, outputs, others, 1.0)
  assert distances[10.0] < 0.5 * distances[0.0]


def test_losses_see_float32_where_the_model_computes_in_less(points_batch):
  seen = {}

  class Half(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      features = nn.Dense(6, dtype=jnp.bfloat16)(x)
      return {'features': features, 'logits': jnp.float32(features[:, :3])}

  def loss(params, source, target, strength):
    del params, strength
    seen.update(source=source['features'], target=target['features'])
    return jnp.zeros(())

  method = align(Half(), optax.sgd(0.1), loss)
  method.step(method.init(jax.random.key(0), None, points_batch), points_batch)
  assert [x.dtype for x in seen.values()] == [jnp.float32] * 2


@pytest.mark.parametrize('name', ['coral', 'dan', 'dann', 'rsd', 'dare_gram'])
@pytest.mark.parametrize('is_sum', [False, True])
def test_a_regression_descends_its_squared_error(points, points_batch, name, is_sum):
  targets = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  batch = {**points_batch, 'source': {**points_batch['source'], 'label': targets}}
  options = {'strength': 0.0, 'task_loss': losses.squared_error}
  if is_sum:
    name, options = f'{name}+afn', {name: options, 'afn': {'strength': 0.0}}
  method = adaptation.create(name, points, optax.sgd(0.1), **options)
  state = method.init(jax.random.key(0), None, batch)

  def error(params):
    outputs = points.apply({'params': params}, batch['source']['image'])
    return jnp.mean((outputs['logits'] - targets) ** 2)

  before = {part: state.params[part] for part in ('hidden', 'head')}
  value, grads = jax.value_and_grad(error)(before)
  after, metrics = method.step(state, batch)
  np.testing.assert_allclose(metrics['task_loss'], value, rtol=1e-5)
  wanted = jax.tree.map(lambda p, g: p - 0.1 * g, before, grads)
  chex.assert_trees_all_close({k: after.params[k] for k in before}, wanted, rtol=1e-4)
