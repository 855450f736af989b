"""What trains is the head alone."""

import jax
import numpy as np
import optax

from tljax import losses, train
from tljax.extraction import probe
from tljax.extraction.head import as_outputs
from tljax.models.base import FlattenMLP, Linear


def test_a_regression_finds_its_line(one_device):
  rng = np.random.default_rng(0)
  features = np.float32(rng.normal(size=(64, 3)))
  targets = features @ np.float32([[1, -1], [2, 0], [0, 3]]) + np.float32(0.5)
  model = probe.Probe(Linear(2))
  method = probe.method(model, optax.adam(0.1), loss=losses.squared_error)
  batch = {'image': features, 'label': targets}
  state = method.init(jax.random.key(0), None, batch)
  state, records = train.fit(method, state, lambda _: batch, 150, mesh=one_device)
  assert records[-1]['loss'] < 1e-4
  head = probe.head_of(model, state)
  np.testing.assert_allclose(head.logits(features), targets, atol=0.05)
  classifier = head.variables['params']['classifier']
  np.testing.assert_allclose(classifier['bias'], 0.5, atol=0.05)


def test_a_probe_is_its_head(pixels):
  features = pixels[0][:5].reshape(5, 8, 8)
  model = probe.Probe(FlattenMLP(4, (6,)))
  method = probe.method(model, optax.sgd(0.1))
  batch = {'image': features, 'label': np.int32([0, 1, 2, 3, 0])}
  state = method.init(jax.random.key(0), None, batch)
  assert list(state.params) == ['head']
  head = probe.head_of(model, state)
  wanted = model.head.apply({'params': state.params['head']}, as_outputs(features))
  np.testing.assert_allclose(method.predict(state, features), wanted, rtol=1e-6)
  np.testing.assert_allclose(head.logits(features), wanted, rtol=1e-4, atol=1e-5)
