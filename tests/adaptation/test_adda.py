import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import losses
from tljax.adaptation import adda
from tljax.adaptation.adversarial import Discriminator

RATE, CRITIC = 0.1, Discriminator(width=5)


def build(model, batch, **options):
  method = adda.method(model, optax.sgd(RATE), discriminator=CRITIC, **options)
  return method, method.init(jax.random.key(0), None, batch)


def descend(params, loss, parts):
  grads = jax.grad(loss)(params)
  moved = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
  return {k: moved[k] if k in parts else v for k, v in params.items()}


def test_pretraining_is_on_the_source_and_is_remembered(points, points_batch):
  method, state = build(points, points_batch, source_steps=2)
  source, params = points_batch['source'], state.params

  def task(params):
    mine = {k: params[k] for k in ('hidden', 'head')}
    logits = points.apply({'params': mine}, source['image'])['logits']
    return losses.cross_entropy(logits, source['label'])

  for _ in range(2):
    params = descend(params, task, ('hidden', 'head'))
    state, _ = method.step(state, points_batch)
  chex.assert_trees_all_close(state.params, params, rtol=1e-5, atol=1e-6)
  kept = {k: state.params[k] for k in ('hidden', 'head')}
  chex.assert_trees_all_equal(state.memory['params'], kept)
  after, _ = method.step(state, points_batch)
  chex.assert_trees_all_equal(after.memory, state.memory)
  chex.assert_trees_all_equal(after.params['head'], state.params['head'])
  assert int(after.step) == 3


def test_one_step_is_the_discriminators_and_then_the_targets(points, points_batch):
  method, state = build(points, points_batch, source_steps=0, strength=0.5)
  state, _ = method.step(state, points_batch)  # so that the two networks differ
  source, target = (points_batch[k]['image'] for k in ('source', 'target'))

  def score(params, network, images):
    mine = {k: network[k] for k in ('hidden', 'head')}
    features = points.apply({'params': mine}, images)['features']
    return CRITIC.apply({'params': params['discriminator']}, features)

  def separate(params):
    on_source = score(params, state.memory['params'], source)
    on_target = score(params, params, target)
    both = jnp.log(1 + jnp.exp(-on_source)), jnp.log(1 + jnp.exp(on_target))
    return (jnp.mean(both[0]) + jnp.mean(both[1])) / 2

  def confuse(params):
    return jnp.mean(jnp.log(1 + jnp.exp(-score(params, params, target))))

  half = descend(state.params, separate, ('discriminator',))
  whole = descend(half, confuse, ('hidden',))
  wanted = jax.tree.map(lambda a, b: (a + b) / 2, half, whole)
  after, metrics = method.step(state, points_batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], separate(state.params), rtol=1e-5)
  np.testing.assert_allclose(metrics['alignment_loss'], confuse(half), rtol=1e-5)


def test_only_the_targets_images_move_the_statistics(model, family_batches):
  """The kept network is in evaluation mode, and the head has a single task."""
  batch = family_batches['adaptation'](0)
  method = adda.method(model, optax.sgd(0.1), source_steps=0)
  state = method.init(jax.random.key(0), None, batch)
  step = jax.jit(method.step)
  after, _ = step(state, batch)
  other = {**batch, 'source': {**batch['source'], 'image': batch['target']['image']}}
  again, _ = step(state, other)
  chex.assert_trees_all_equal(after.memory, state.memory)
  first, moved = (s.model_state['batch_stats'] for s in (state, after))
  assert not np.array_equal(jax.tree.leaves(first)[0], jax.tree.leaves(moved)[0])
  chex.assert_trees_all_close(moved, again.model_state['batch_stats'], rtol=1e-6)
