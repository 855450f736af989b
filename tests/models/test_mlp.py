import jax
import numpy as np

from tljax.models import mlp


def test_a_column_of_large_numbers_is_scaled_and_a_constant_one_is_not():
  time = np.random.default_rng(0).normal(1.7e9, 1e3, 50)
  rows = np.stack([time, np.full(50, 0.1)], 1)
  spec = mlp.of_rows(rows, 2).spec
  np.testing.assert_allclose(spec.mean, rows.mean(0))
  np.testing.assert_allclose(spec.std, [time.std(), 1])


def test_it_is_dense_layers_of_standardised_rows():
  rng = np.random.default_rng(0)
  rows = np.float32(rng.normal([0, 50, 7], [1, 20, 0], (30, 3)))
  model = mlp.of_rows(rows, 2, widths=(5, 4))
  some = np.float32(rng.normal(size=(6, 3)))
  variables = model.init(jax.random.key(0), some)
  params = jax.device_get(variables['params'])
  deviations = np.array([rows[:, 0].std(), rows[:, 1].std(), 1])
  x = (some - rows.mean(0)) / deviations
  for name in model.spec.stages:
    layer = params['backbone'][name]
    x = np.maximum(x @ layer['kernel'] + layer['bias'], 0)
  outputs = model.apply(variables, some, train=True)
  np.testing.assert_allclose(outputs['features'], x, rtol=1e-4, atol=1e-5)
  assert outputs['features'].shape == (6, model.spec.feature_dim) == (6, 4)
  logits = x @ params['head']['classifier']['kernel']
  np.testing.assert_allclose(outputs['logits'], logits, rtol=1e-4, atol=1e-5)
