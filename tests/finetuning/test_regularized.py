import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.finetuning import distillation, l2_sp, labels
from tljax.finetuning.regularized import regularize


def energy(params, outputs, memory, batch):
  del params, memory
  return jnp.mean(outputs['features'] ** 2) + jnp.mean(batch['image'])


def test_the_strength_is_a_schedule_of_the_step(model, family_batches):
  batch = family_batches['finetuning'](0)
  method = regularize(
    model, optax.sgd(0.1), energy, strength=lambda step: 1.0 + step.astype(jnp.float32)
  )
  state = method.init(jax.random.key(0), None, batch).replace(step=jnp.int32(2))
  _, metrics = method.step(state, batch)
  unit = regularize(model, optax.sgd(0.1), energy)
  _, unit_metrics = unit.step(state.replace(step=jnp.int32(2)), batch)
  np.testing.assert_allclose(metrics['penalty'], 3 * unit_metrics['penalty'], rtol=1e-6)
  np.testing.assert_allclose(
    metrics['loss'], metrics['task_loss'] + metrics['penalty'], rtol=1e-6
  )


@pytest.mark.parametrize('module', [l2_sp, distillation])
def test_memory_is_a_copy_of_the_pretrained_that_does_not_move(
  module, model, family_batches, raw
):
  stream = family_batches['finetuning']
  pretrained = model.init(jax.random.key(5), stream(0)['image'])
  before = raw(pretrained)
  method = module.method(model, optax.adam(1e-2))
  state = method.init(jax.random.key(0), pretrained, stream(0))
  kept = raw(state.memory)
  assert set(kept.values()) <= set(before.values())
  step = jax.jit(method.step, donate_argnums=0)
  for t in range(3):
    state, _ = step(state, stream(t))
  assert raw(state.memory) == kept
  assert raw(pretrained) == before


def test_a_frozen_backbone_stays_frozen_under_a_penalty(model, family_batches, raw):
  stream = family_batches['finetuning']
  method = l2_sp.method(
    *labels.freeze(model, optax.adamw(1e-2), 'backbone/.*'),
    strength=1.0,
    head_decay=1.0,
  )
  state = method.init(jax.random.key(0), None, stream(0))
  before = raw((state.params['backbone'], state.model_state))
  head = raw(state.params['head'])
  for t in range(3):
    state, _ = method.step(state, stream(t))
  assert raw((state.params['backbone'], state.model_state)) == before
  assert raw(state.params['head']) != head
