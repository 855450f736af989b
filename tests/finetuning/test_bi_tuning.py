import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.errors import InputError
from tljax.finetuning import bi_tuning

QUEUE, TEMPERATURE = 3, 0.5


def test_contrast(check_slow):
  rng = np.random.default_rng(0)
  labels = np.array([2, 0, 2, 1])

  def slow(current, queued):
    total = 0.0
    for n, label in enumerate(labels):
      scores = [current[n], *queued[n].ravel()]
      partition = sum(np.exp(s / TEMPERATURE) for s in scores)
      for score in (current[n], *queued[n, label]):
        share = np.exp(score / TEMPERATURE) / partition
        total -= np.log(share) / (1 + queued.shape[-1])
    return total / len(labels)

  def loss(current, queued):
    return bi_tuning.contrast(current, queued, labels, TEMPERATURE)

  check_slow(loss, slow, rng.normal(size=4), rng.normal(size=(4, 3, 2)))


def unit(x):
  return x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True))


def embed(model, params, stats, images, rng):
  """Logits, unit features with a one, and unit projections."""
  outputs, _ = model.apply(
    {'params': params, **stats},
    images,
    train=True,
    mutable=['batch_stats'],
    rngs={'dropout': rng},
  )
  rows = jnp.pad(outputs['features'], ((0, 0), (0, 1)), constant_values=1)
  layer = params['projector']
  affine = jnp.concatenate([layer['kernel'], layer['bias'][None]])
  return outputs['logits'], unit(rows), unit(rows @ affine)


@pytest.fixture
def build(model, family_batches):
  """Returns `options -> (method, state)`, with the key network off the query's."""

  def build(optimizer, **options):
    options = {'queue': QUEUE, 'temperature': TEMPERATURE, 'width': 4, **options}
    method = bi_tuning.method(model, optimizer, **options)
    state = method.init(jax.random.key(0), None, family_batches['finetuning'](0))
    moved = jax.tree.map(lambda leaf: 1.1 * leaf + 0.02, state.params)
    return method, state.replace(params=moved)

  return build


def test_one_step(build, model, family_batches):
  """The two contrasts as divergences from shares of the positives, as in the authors'
  library.
  """
  batch, rate = family_batches['finetuning'](0), 0.1
  flip = lambda key, images: images[:, :, ::-1]  # noqa: E731
  method, state = build(optax.sgd(rate), strength=0.3, momentum=0.7, view=flip)
  memory, labels = state.memory, np.asarray(batch['label'])
  key_params = jax.tree.map(
    lambda k, q: 0.7 * k + 0.3 * q, state.memory.params, state.params
  )
  step_key = jax.random.fold_in(state.rng, 0)
  key_rng, _ = jax.random.split(step_key)
  _, key_features, key_projections = embed(
    model, key_params, state.model_state, batch['image'][:, :, ::-1], key_rng
  )

  own_class = np.repeat(labels[:, None] == np.arange(10), QUEUE, 1)
  shares = np.float32(np.pad(own_class, ((0, 0), (1, 0)), constant_values=True))
  shares /= 1 + QUEUE

  def divergence(own, queries, queue):
    every = jnp.concatenate(
      [own[:, None], queries @ queue.reshape(10 * QUEUE, -1).T], 1
    )
    return -jnp.sum(shares * jax.nn.log_softmax(every / TEMPERATURE))

  def objective(params):
    logits, features, projections = embed(
      model, params, state.model_state, batch['image'], step_key
    )
    task = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].sum()
    head = jax.lax.stop_gradient(params['head']['classifier'])
    vectors = unit(jnp.concatenate([head['kernel'], head['bias'][None]]).T)[labels]
    own = (vectors * features).sum(1), (projections * key_projections).sum(1)
    contrasts = divergence(own[0], vectors, memory.features)
    contrasts += divergence(own[1], projections, memory.projections)
    return (task + 0.3 * contrasts) / len(labels)

  value, grads = jax.value_and_grad(objective)(state.params)
  after, metrics = method.step(state, batch)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, grads)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(after.memory.params, key_params, rtol=1e-6)
  for name, keys in (('features', key_features), ('projections', key_projections)):
    queues = {k: collections.deque(q) for k, q in enumerate(getattr(memory, name))}
    for label, key in zip(labels, keys, strict=True):
      queues[int(label)].popleft()
      queues[int(label)].append(key)
    for label, queue in queues.items():
      turn = int(after.memory.position[label])
      got = np.roll(getattr(after.memory, name)[label], -turn, 0)
      np.testing.assert_allclose(got, np.stack(queue), rtol=1e-4, atol=1e-5)


def test_queues_hold_the_last_of_each_class():
  """Of more than a queue's worth in a batch too."""
  labels = np.array([0, 1, 0, 0, 2, 0, 0])
  queues = {k: collections.deque([-1] * QUEUE, QUEUE) for k in range(4)}
  table, position = jnp.full((4, QUEUE), -1), jnp.zeros(4, jnp.int32)
  for start in range(0, 70, 7):
    keys, turned = np.arange(start, start + 7), (labels + start) % 3
    slots, position = bi_tuning._slots(jnp.asarray(turned), position, QUEUE)
    table = table.at[slots].set(jnp.asarray(keys), mode='drop')
    for label, key in zip(turned, keys, strict=True):
      queues[int(label)].append(key)
    for label, queue in queues.items():
      assert sorted(table[label].tolist()) == sorted(queue)
      assert np.roll(table[label], -position[label])[-1] == queue[-1]


def test_the_pretrained_start_both_networks(model, family_batches, raw):
  batch = family_batches['finetuning'](0)
  pretrained = model.init(jax.random.key(5), batch['image'])
  state = bi_tuning.method(model, optax.sgd(0.1)).init(
    jax.random.key(0), pretrained, batch
  )
  assert raw(state.memory.params) == raw(state.params)
  kept = {k: state.params[k] for k in pretrained['params']}
  assert raw(kept) == raw(pretrained['params'])
  norms = np.linalg.norm(state.memory.features, axis=-1)
  np.testing.assert_allclose(norms, np.ones((10, 40)), rtol=1e-5)


def test_a_head_without_a_linear_layer_of_that_name_is_refused(family_batches):
  model = models.create('squeezenet1_1', 10)
  batch = {'image': jnp.zeros((1, 33, 33, 3)), 'label': jnp.zeros(1, jnp.int32)}
  method = bi_tuning.method(model, optax.sgd(0.1))
  with pytest.raises(InputError, match='wants a linear head'):
    jax.eval_shape(method.init, jax.random.key(0), None, batch)


def test_mixed_labels_are_refused(build, family_batches):
  method, state = build(optax.sgd(0.1))
  batch = family_batches['finetuning'](0)
  with pytest.raises(InputError, match='wants a class of each image'):
    method.step(state, {**batch, 'label': jax.nn.one_hot(batch['label'], 10)})
