import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import tent
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.method import apply_train, path_name

RATE = 0.1


def test_only_the_norms_move_on_the_target(normed_points, points_batch, raw):
  """With momentum from the first phase, which would move all."""
  method = tent.method(
    normed_points, optax.adamw(RATE, weight_decay=0.1), source_steps=1
  )
  state = method.init(jax.random.key(0), None, points_batch)
  state, _ = method.step(state, points_batch)
  blind = {
    **points_batch,
    'source': jax.tree.map(jnp.zeros_like, points_batch['source']),
  }
  after, _ = method.step(state, blind)
  before, after = raw(state.params), raw(after.params)
  moved = {name for name in before if before[name] != after[name]}
  assert moved == {'norm/scale', 'norm/bias'}


def test_the_first_phase_is_plain_training(normed_points, points_batch):
  method, alone = (
    tent.method(normed_points, optax.sgd(RATE)),
    plain.method(normed_points, optax.sgd(RATE)),
  )
  state = method.init(jax.random.key(0), None, points_batch)
  twin = alone.init(jax.random.key(0), None, points_batch['source'])
  after, _ = method.step(state, points_batch)
  wanted, _ = alone.step(twin, points_batch['source'])
  chex.assert_trees_all_close(after.variables, wanted.variables, rtol=1e-5, atol=1e-6)


def test_one_step_descends_the_entropy(normed_points, points_batch):
  method = tent.method(normed_points, optax.sgd(RATE), source_steps=0)
  state = method.init(jax.random.key(0), None, points_batch)
  rng = jax.random.fold_in(state.rng, 0)

  def entropy(params):
    outputs, model_state = apply_train(
      normed_points, params, state, points_batch['target']['image'], rng
    )
    p = jax.nn.softmax(outputs['logits'])
    return -jnp.mean(jnp.sum(p * jnp.log(p), 1)), model_state

  (value, model_state), grads = jax.value_and_grad(entropy, has_aux=True)(state.params)
  wanted = jax.tree_util.tree_map_with_path(
    lambda path, p, g: p - RATE * g if 'norm/' in path_name(path) else p,
    state.params,
    grads,
  )
  after, metrics = method.step(state, points_batch)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_close(after.model_state, model_state, rtol=1e-5, atol=1e-6)


def test_a_model_without_norms_is_refused(points, points_batch):
  method = tent.method(points, optax.sgd(RATE))
  with pytest.raises(InputError, match='no norm'):
    method.init(jax.random.key(0), None, points_batch)
