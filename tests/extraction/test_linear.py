"""The probe standardises, trains its head alone, and folds into one linear map."""

import jax
import numpy as np
from sklearn.preprocessing import StandardScaler

from tljax.extraction.linear import LinearProbe, fold


def test_probe_standardises_features_whatever_their_scale():
  features = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
  features = features * np.float32([[1, 10, 100, 0.1, 1]]) + np.float32(3)
  probe = LinearProbe(3)
  variables = probe.init(jax.random.key(0), features)
  outputs, state = probe.apply(variables, features, train=True, mutable=['batch_stats'])
  scaled = (features - features.mean(0)) / features.std(0)
  np.testing.assert_allclose(outputs['features'], scaled, rtol=1e-2, atol=2e-3)
  assert outputs['logits'].shape == (64, 3)
  # A tenth of the way from mean 0: the statistics are kept for evaluation.
  mean = state['batch_stats']['norm']['mean']
  np.testing.assert_allclose(mean, features.mean(0) / 10, rtol=1e-4)


def test_probe_moves_only_its_head():
  variables = LinearProbe(3).init(jax.random.key(0), np.zeros((1, 5), np.float32))
  assert jax.tree.map(np.shape, variables['params']) == {
    'head': {'classifier': {'kernel': (5, 3), 'bias': (3,)}}
  }


def after(steps):
  """Features, the probe, and its variables after steps that see all of them."""
  rng = np.random.default_rng(0)
  features = np.float32(rng.normal(size=(64, 5)) * [1, 10, 100, 0.1, 1] + 3)
  probe = LinearProbe(3)
  variables = probe.init(jax.random.key(0), features)
  for _ in range(steps):
    _, state = probe.apply(variables, features, train=True, mutable=['batch_stats'])
    variables = {**variables, **state}
  return features, probe, variables


def test_folded_it_is_one_linear_head_that_says_the_same():
  features, probe, variables = after(30)
  wanted = probe.apply(variables, features)['logits']
  assert abs(np.asarray(wanted)).max() > 1
  np.testing.assert_allclose(fold(variables).logits(features), wanted, atol=1e-4)


def test_the_epsilon_is_that_of_maes_code():
  features = np.float32([[-1e-3], [1e-3]])  # of variance 1e-6
  probe = LinearProbe(2)
  variables = probe.init(jax.random.key(0), features)
  outputs, _ = probe.apply(variables, features, train=True, mutable=['batch_stats'])
  wanted = [[-(0.5**0.5)], [0.5**0.5]]
  np.testing.assert_allclose(outputs['features'], wanted, rtol=1e-5)


def test_after_few_steps_it_folds_by_the_exact_moments():
  features, _, variables = after(10)
  classifier = variables['params']['head']['classifier']
  scaled = StandardScaler().fit_transform(np.float64(features))
  wanted = scaled @ np.asarray(classifier['kernel']) + np.asarray(classifier['bias'])
  moments = features.mean(0, dtype=np.float64), features.var(0, dtype=np.float64)
  got = fold(variables, moments).logits(features)
  np.testing.assert_allclose(got, wanted, atol=1e-3)
  assert abs(fold(variables).logits(features) - wanted).max() > 0.1
