import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import losses
from tljax.adaptation import mcd
from tljax.models.base import Linear
from tljax.models.heads import Hidden


def test_discrepancy(check_slow):
  def slow(*heads):
    first, second = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in heads)
    return sum(abs(p - q) for p, q in zip(first.flat, second.flat, strict=True)) / 15

  rng = np.random.default_rng(0)
  check_slow(mcd.discrepancy, slow, rng.normal(size=(5, 3)), rng.normal(size=(5, 3)))


def test_the_published_discrepancy(check_reference):
  check_reference('mcd_discrepancy', mcd.discrepancy, ['logits_t', 'logits_t2'])


def test_the_published_class_balance(check_reference):
  check_reference('mcd_class_balance_entropy', mcd.class_balance, ['logits_t'])


@pytest.mark.parametrize('optimizer', [optax.sgd(0.1, momentum=0.9), optax.adam(0.01)])
@pytest.mark.parametrize(('generator_steps', 'balance'), [(1, 0.0), (3, 0.2)])
def test_a_step_is_three_descents_in_turn(
  points, points_batch, generator_steps, balance, optimizer
):
  """With separate optimisers for the heads and the rest, as the authors have them."""
  strength, head = 0.5, Linear(3)
  method = mcd.method(
    points,
    optimizer,
    strength=strength,
    generator_steps=generator_steps,
    balance=balance,
    second_head=head,
  )
  state = method.init(jax.random.key(0), None, points_batch)
  source, target = points_batch['source'], points_batch['target']

  def both(params, images):
    mine = {k: v for k, v in params.items() if k != 'second_head'}
    outputs = points.apply({'params': mine}, images)
    return outputs['logits'], head.apply({'params': params['second_head']}, outputs)

  def task(params):
    logits = both(params, source['image'])
    means = [jnp.mean(nn.softmax(z), 0) for z in both(params, target['image'])]
    uneven = -sum(jnp.mean(jnp.log(mean + 1e-6)) for mean in means)
    fit = sum(losses.cross_entropy(z, source['label']) for z in logits)
    return fit + balance * uneven

  def gap(params):
    p, q = (jnp.exp(z) for z in both(params, target['image']))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return strength * jnp.mean(jnp.abs(p - q))

  params = state.params
  names = {'heads': ('head', 'second_head'), 'rest': ('hidden',)}
  own = {k: optimizer.init({n: params[n] for n in v}) for k, v in names.items()}

  def descend(params, own, loss, groups):
    grads = jax.grad(loss)(params)
    for group in groups:
      mine = {n: grads[n] for n in names[group]}
      updates, new = optimizer.update(mine, own[group])
      own = own | {group: new}
      params = params | optax.apply_updates({n: params[n] for n in mine}, updates)
    return params, own

  for number in range(2):
    before = params
    params, own = descend(params, own, task, ['heads', 'rest'])
    params, own = descend(params, own, lambda p: task(p) - gap(p), ['heads'])
    for _ in range(generator_steps):
      params, own = descend(params, own, gap, ['rest'])
    state, metrics = method.step(state, points_batch)
    chex.assert_trees_all_close(state.params, params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics['loss'], task(before), rtol=1e-5)
    np.testing.assert_allclose(metrics['alignment_loss'], gap(before), rtol=1e-5)
    assert int(state.step) == number + 1


def test_the_second_head_is_drawn_like_the_models_and_not_deployed(
  model, family_batches
):
  batch = family_batches['adaptation'](0)
  method = mcd.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch)
  first, second = (state.params[name] for name in mcd.HEADS)
  chex.assert_trees_all_equal_shapes(first, second)
  kernels = [tree['classifier']['kernel'] for tree in (first, second)]
  assert not np.array_equal(*kernels)
  del state.params['second_head']
  assert method.predict(state, batch['target']['image']).shape == (16, 10)


def test_the_second_heads_batch_norm_sees_both_domains(points, points_batch):
  """As the first's does, whose running statistics are those of all six passes."""
  head = Hidden(3, (5,), (0.0, 0.0), batch_norm=True)
  method = mcd.method(points, optax.sgd(0.1), second_head=head)
  state = method.init(jax.random.key(0), None, points_batch)
  mine = {k: v for k, v in state.params.items() if k != 'second_head'}
  images = [points_batch[name]['image'] for name in ('source', 'target')]
  outputs = points.apply({'params': mine}, jnp.concatenate(images))
  variables = {'params': state.params['second_head']}
  second, _ = head.apply(variables, outputs, train=True, mutable=['batch_stats'])
  wanted = mcd.discrepancy(outputs['logits'][8:], second[8:])
  _, metrics = method.step(state, points_batch)
  np.testing.assert_allclose(metrics['alignment_loss'], wanted, rtol=1e-5)


def test_running_statistics_are_of_all_passes(normed_points, points_batch):
  method = mcd.method(normed_points, optax.sgd(0.0), second_head=Linear(3))
  state = method.init(jax.random.key(0), None, points_batch)
  images = [points_batch[name]['image'] for name in ('source', 'target')]
  hidden = jnp.concatenate(images) @ state.params['hidden']['kernel']
  after, _ = method.step(state, points_batch)
  wanted = (1 - 0.9**6) * np.mean(hidden, 0)  # by SGD of rate 0 all are alike
  found = after.model_state['batch_stats']['norm']['mean']
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
