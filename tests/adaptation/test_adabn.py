import chex
import jax
import numpy as np
import optax
import pytest

from tljax.adaptation import adabn
from tljax.errors import InputError
from tljax.finetuning import plain


def test_it_learns_from_the_source_alone(normed_points, points_batch):
  """As plain training does."""
  method, alone = (m.method(normed_points, optax.adam(1e-2)) for m in (adabn, plain))
  state = method.init(jax.random.key(0), None, points_batch)
  twin = alone.init(jax.random.key(0), None, points_batch['source'])
  for _ in range(2):
    state, _ = method.step(state, points_batch)
    twin, _ = alone.step(twin, points_batch['source'])
  chex.assert_trees_all_close(state.params, twin.params, rtol=1e-5, atol=1e-6)


def test_the_statistics_become_the_targets(normed_points, points_batch):
  method = adabn.method(normed_points, optax.sgd(0.0))
  state = method.init(jax.random.key(0), None, points_batch)
  for _ in range(3):
    state, _ = method.step(state, points_batch)
  kernel = np.asarray(state.params['hidden']['kernel'])  # its bias is still 0
  seen = points_batch['target']['image'] @ kernel
  norm, kept = state.model_state['batch_stats']['norm'], 0.9**3
  np.testing.assert_allclose(norm['mean'], (1 - kept) * seen.mean(0), rtol=1e-4)
  wanted = kept + (1 - kept) * seen.var(0)
  np.testing.assert_allclose(norm['var'], wanted, rtol=1e-4)


def test_it_predicts_with_the_targets(normed_points, points_batch):
  method = adabn.method(normed_points, optax.adam(1e-2))
  state, _ = method.step(
    method.init(jax.random.key(0), None, points_batch), points_batch
  )
  alone = plain.method(normed_points, optax.adam(1e-2))
  source, images = points_batch['source'], points_batch['target']['image']
  twin, _ = alone.step(alone.init(jax.random.key(0), None, source), source)
  logits = method.predict(state, images)
  wanted = normed_points.apply(state.variables, images)['logits']
  np.testing.assert_allclose(logits, wanted, rtol=1e-5)
  assert not np.allclose(logits, alone.predict(twin, images))


def test_a_model_without_batch_norm_is_refused(points, points_batch):
  method = adabn.method(points, optax.sgd(0.1))
  with pytest.raises(InputError, match='no batch statistics'):
    method.init(jax.random.key(0), None, points_batch)
