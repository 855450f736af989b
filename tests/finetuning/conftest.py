import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.gradients import as_float64, check_descent


@pytest.fixture
def check_step(model, family_batches):
  """Returns `(build, penalty)`: holds one step of SGD to a loss written out.

  `build(model, optimizer)` is the method; its step must descend the cross-entropy +
  `penalty(params, start, outputs, images)`, where `start` are the variables before
  training. The parameters are moved off their start first.
  """

  def check(build, penalty):
    rate = 0.1

    def apply(params):
      return model.apply(
        {**start, 'params': params},
        batch['image'],
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.fold_in(state.rng, 0)},
      )[0]

    def task(params):
      likely = jax.nn.log_softmax(apply(params)['logits'])
      return -jnp.mean(likely[np.arange(len(likely)), batch['label']])

    def added(params):
      return penalty(params, start, apply(params), batch['image'])

    # A strength is a float32 number.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
      batch = as_float64(family_batches['finetuning'](0))
      method = build(model, optax.sgd(rate))
      state = as_float64(method.init(jax.random.key(0), None, batch))
      start = state.variables
      moved = jax.tree.map(lambda leaf: 1.1 * leaf + 0.01, state.params)
      state = state.replace(params=moved)
      value, metrics = check_descent(method, state, batch, rate, task, added)
      penalized = metrics['loss'] - metrics['task_loss']
      np.testing.assert_allclose(penalized, value, rtol=1e-5, atol=1e-7)

  return check
