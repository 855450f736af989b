import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest


@pytest.fixture
def check_step(model, family_batches):
  """Returns `(build, penalty)`: holds one step of SGD to a loss written out.

  `build(model, optimizer)` is the method; its step must descend the cross-entropy +
  `penalty(params, start, outputs, images)`, where `start` are the variables before
  training. The parameters are moved off their start first.
  """

  def check(build, penalty):
    rate, batch = 0.1, family_batches['finetuning'](0)
    method = build(model, optax.sgd(rate))
    state = method.init(jax.random.key(0), None, batch)
    start = state.variables
    moved = jax.tree.map(lambda leaf: 1.1 * leaf + 0.01, state.params)
    state = state.replace(params=moved)

    def objective(params):
      outputs, _ = model.apply(
        {**start, 'params': params},
        batch['image'],
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.fold_in(state.rng, 0)},
      )
      likely = jax.nn.log_softmax(outputs['logits'])
      task = -jnp.mean(likely[np.arange(len(likely)), batch['label']])
      value = penalty(params, start, outputs, batch['image'])
      return task + value, value

    grads, value = jax.grad(objective, has_aux=True)(state.params)
    after, metrics = method.step(state, batch)
    penalized = metrics['loss'] - metrics['task_loss']
    np.testing.assert_allclose(penalized, value, rtol=1e-4, atol=1e-5)
    wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, grads)
    chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-5)

  return check
