import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import mme
from tljax.finetuning import labels


@pytest.mark.parametrize(
  ('options', 'strength', 'temperature'),
  [({}, 0.1, 0.05), ({'strength': 2.0, 'temperature': 0.5}, 2.0, 0.5)],
)
def test_one_step_is_the_minimax(
  headed_points, points_batch, options, strength, temperature
):
  """Features descend, the head ascends, strength x the target's entropy."""
  rate, batch = 0.01, points_batch
  few = {'image': batch['target']['image'][:3], 'label': np.int32([2, 0, 1])}
  method = mme.method(headed_points, optax.sgd(rate), **options)
  state = method.init(jax.random.key(0), None, batch)

  def terms(params):
    def predict(images):
      hidden = params['backbone']['hidden']
      features = jnp.tanh(images @ hidden['kernel'] + hidden['bias'][None])
      unit = features / jnp.linalg.norm(features, axis=1, keepdims=True)
      odds = jnp.exp(unit @ params['head']['classifier']['kernel'] / temperature)
      return odds / jnp.sum(odds, 1, keepdims=True)

    images = np.concatenate([batch['source']['image'], few['image']])
    known = np.concatenate([batch['source']['label'], few['label']])
    task = -jnp.mean(jnp.log(predict(images)[np.arange(11), known]))
    p = predict(batch['target']['image'])
    return task, -strength * jnp.sum(p * jnp.log(p)) / len(p)

  task, entropy = (jax.grad(lambda p, i=i: terms(p)[i])(state.params) for i in (0, 1))
  signs = {'backbone': 1.0, 'head': -1.0}
  wanted = {
    part: jax.tree.map(
      lambda w, a, b, sign=sign: w - rate * (a + sign * b),
      state.params[part],
      task[part],
      entropy[part],
    )
    for part, sign in signs.items()
  }
  after, metrics = method.step(state, {**batch, 'labelled': few})
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(metrics['alignment_loss'], -terms(state.params)[1], 1e-4)


def test_a_frozen_backbone_stands_still(model, family_batches, raw):
  batch = family_batches['adaptation'](0)
  method = mme.method(*labels.freeze(model, optax.adam(1e-2), 'backbone/.*'))
  state = method.init(jax.random.key(0), None, batch)
  after, _ = method.step(state, batch)
  before, after = raw(state.params), raw(after.params)
  assert {k for k in before if before[k] != after[k]} == {'head/classifier/kernel'}
