import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import mixstyle
from tljax.errors import InputError

MAPS = jnp.float32(np.random.default_rng(0).normal(3, 2, size=(6, 4, 5, 3)))


def statistics(x):
  return np.stack([np.mean(x, (1, 2)), np.sqrt(np.var(x, (1, 2)) + 1e-6)])


def test_a_map_keeps_its_content_in_a_style_between_two():
  mixed = mixstyle.mix_style(jax.random.key(1), MAPS, probability=1.0, alpha=5.0)
  before, after = statistics(MAPS), statistics(mixed)
  contents = [
    (np.asarray(x) - mean[:, None, None]) / std[:, None, None]
    for x, (mean, std) in ((MAPS, before), (mixed, after))
  ]
  np.testing.assert_allclose(*contents, atol=1e-4)
  others = set()
  for i in range(6):  # one share and one partner fit all channels, mean and deviation
    fits = []
    for j in range(6):
      line = (before[:, i] - before[:, j]).ravel()
      share = (after[:, i] - before[:, j]).ravel() @ line / max(line @ line, 1e-9)
      gap = after[:, i] - (share * before[:, i] + (1 - share) * before[:, j])
      fits.append((abs(gap).max(), j, share))
    gap, j, share = min(fits)
    assert gap < 1e-3 and (i == j or -1e-3 < share < 1 + 1e-3)
    others.add(j)
  assert len(others) > 2


def test_the_coin_and_the_gradient():
  same = mixstyle.mix_style(jax.random.key(1), MAPS, probability=0.0)
  np.testing.assert_array_equal(same, MAPS)
  keys = jax.random.split(jax.random.key(0), 200)
  mixed = jax.vmap(lambda k: mixstyle.mix_style(k, MAPS, 0.3))(keys)
  share = np.mean([not np.array_equal(x, MAPS) for x in np.asarray(mixed)])
  assert 0.2 < share < 0.4
  # Statistics are constants: a map's gradient is its new deviation over its own.
  key = jax.random.key(2)
  grad = jax.grad(lambda x: jnp.sum(mixstyle.mix_style(key, x, 1.0)))(MAPS)
  after = statistics(mixstyle.mix_style(key, MAPS, 1.0))[1] / statistics(MAPS)[1]
  wanted = np.broadcast_to(after[:, None, None], MAPS.shape)
  np.testing.assert_allclose(grad, wanted, rtol=1e-3)


def test_stages_mix_in_training_alone(model, family_batches):
  batch = family_batches['adaptation'](0)
  source, values = batch['source'], {}
  for probability in (0.0, 1.0):
    method = mixstyle.method(model, optax.sgd(0.1), probability=probability)
    state = method.init(jax.random.key(0), None, batch)
    _, metrics = method.step(state, batch)
    values[probability] = float(metrics['loss'])
    logits = method.predict(state, source['image'])
  plain = model.apply(state.variables, source['image'])['logits']
  np.testing.assert_array_equal(logits, plain)
  assert abs(values[1.0] - values[0.0]) > 1e-3


def test_a_model_without_such_a_stage(points, points_batch):
  with pytest.raises(InputError, match="no stage 'stage[12]'"):
    mixstyle.method(points, optax.sgd(0.1)).init(jax.random.key(0), None, points_batch)
