"""A loss that is given takes the place of the cross-entropy, wherever one can be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import finetuning

NAMES = [name for name in finetuning.names() if 'loss' in finetuning.defaults(name)]


def first_output(logits, labels):
  assert labels.shape == logits.shape[:1]
  return 7 + jnp.sum(logits[:, 0])


@pytest.mark.parametrize('name', NAMES)
def test_another_loss_is_all_that_moves_the_head(name, model, family_batches):
  batch = family_batches['finetuning'](0)
  method = finetuning.create(name, model, optax.sgd(0.5), loss=first_output)
  state = method.init(jax.random.key(0), None, batch)
  after, metrics = jax.jit(method.step)(state, batch)
  before, bias = (
    np.asarray(s.params['head']['classifier']['bias']) for s in (state, after)
  )
  wanted = before - 0.5 * len(batch['label']) * np.eye(len(before))[0]
  np.testing.assert_allclose(bias, wanted, rtol=1e-5, atol=1e-6)
  assert 'accuracy' not in metrics


def test_which_methods_have_one():
  own = set(finetuning.names()) - set(NAMES)
  assert own == {'bi_tuning', 'co_tuning', 'distillation', 'lwf'}
