import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import coral
from tljax.extraction.bottleneck import Bottleneck
from tljax.finetuning import plain
from tljax.models import Linear

ROWS = np.float32(np.random.default_rng(0).normal(2, 5, (12, 20)))


@pytest.mark.parametrize('norm', ['layer', 'batch'])
def test_it_is_a_dense_layer_a_norm_and_relu(norm):
  model = Bottleneck(Linear(3), width=8, norm=norm)
  variables = model.init(jax.random.key(0), ROWS)
  outputs, _ = model.apply(variables, ROWS, train=True, mutable=['batch_stats'])
  hidden = ROWS @ variables['params']['backbone']['dense']['kernel']
  axis = 1 if norm == 'layer' else 0
  mean, std = hidden.mean(axis, keepdims=True), hidden.std(axis, keepdims=True)
  wanted = np.maximum((hidden - mean) / std, 0)
  np.testing.assert_allclose(outputs['features'], wanted, rtol=1e-3, atol=1e-4)
  embedded, _ = model.apply(
    variables, ROWS, train=True, mutable=['batch_stats'], method='embed'
  )
  np.testing.assert_array_equal(embedded['features'], outputs['features'])
  head = variables['params']['head']['classifier']
  logits = outputs['features'] @ head['kernel'] + head['bias'][None]
  np.testing.assert_allclose(outputs['logits'], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('norm', 'same'), [('layer', True), ('batch', False)])
def test_a_method_of_no_strength_is_the_source_alone_by_layer_norm(norm, same):
  model, optimizer = Bottleneck(Linear(3), width=8, norm=norm), optax.sgd(0.1)
  source = {'image': jnp.asarray(ROWS[:6]), 'label': jnp.arange(6) % 3}
  batch = {'source': source, 'target': {'image': jnp.asarray(3 * ROWS[6:])}}
  alone = plain.method(model, optimizer)
  both = coral.method(model, optimizer, strength=0.0)
  states = []
  for method, given in ((alone, source), (both, batch)):
    state = method.init(jax.random.key(0), None, given)
    states.append(method.step(state, given)[0])
  kernels = [state.params['backbone']['dense']['kernel'] for state in states]
  assert np.allclose(*kernels, atol=1e-6) == same
