import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.adaptation import coral
from tljax.data.augment import to_float
from tljax.extraction.features import extract
from tljax.extraction.head import Head, join
from tljax.finetuning import plain
from tljax.models import Linear
from tljax.models.bottleneck import Bottleneck, OnFeatures

ROWS = np.float32(np.random.default_rng(0).normal(2, 5, (12, 20)))


@pytest.mark.parametrize('norm', ['layer', 'batch'])
def test_it_is_a_dense_layer_a_norm_and_relu(norm):
  model = OnFeatures(Linear(3), Bottleneck(8, norm))
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


@pytest.mark.parametrize(
  ('norm', 'activation', 'wanted'),
  [
    ('none', None, lambda x: x),
    ('none', 'relu', lambda x: np.maximum(x, 0)),
    ('none', 'tanh', np.tanh),
    ('batch', 'none', lambda x: (x - x.mean(0)) / x.std(0)),
  ],
)
def test_an_activation_of_its_own(norm, activation, wanted):
  model = OnFeatures(Linear(3), Bottleneck(8, norm, activation))
  variables = model.init(jax.random.key(0), ROWS)
  outputs, _ = model.apply(variables, ROWS, train=True, mutable=['batch_stats'])
  dense = jax.tree.map(np.asarray, variables['params']['backbone']['dense'])
  hidden = ROWS @ dense['kernel'] + dense.get('bias', 0)
  assert hidden.min() < 0 < hidden.max()
  np.testing.assert_allclose(outputs['features'], wanted(hidden), rtol=1e-3, atol=1e-4)


def test_its_dropout_is_last_and_of_training_alone():
  model = OnFeatures(Linear(3), Bottleneck(8, 'none', dropout=0.5))
  variables, rngs = model.init(jax.random.key(0), ROWS), {'dropout': jax.random.key(1)}
  whole = np.asarray(model.apply(variables, ROWS)['features'])
  dropped = np.asarray(model.apply(variables, ROWS, train=True, rngs=rngs)['features'])
  kept = dropped != 0
  assert 0.2 < kept.mean() < 0.8
  np.testing.assert_allclose(dropped[kept], 2 * whole[kept], rtol=1e-6)


def test_dropout_that_keeps_lengths():
  below = Bottleneck(4000, 'none', dropout=0.3)
  plain, keeping = (
    OnFeatures(Linear(3), below.clone(keeps_length=k)) for k in (False, True)
  )
  variables, rngs = plain.init(jax.random.key(0), ROWS), {'dropout': jax.random.key(1)}

  def features(model, **options):
    return np.asarray(model.apply(variables, ROWS, **options)['features'])

  whole, dropped = features(keeping), features(keeping, train=True, rngs=rngs)
  lengths = np.linalg.norm(whole, axis=1)
  np.testing.assert_allclose(np.linalg.norm(dropped, axis=1), lengths, rtol=0.05)
  scaled = np.sqrt(0.7) * features(plain, train=True, rngs=rngs)
  np.testing.assert_allclose(dropped, scaled, rtol=1e-6)


def test_a_network_of_images_has_it_above_its_features():
  """And extraction too, whose 'features' are then its."""
  plain = models.create('cnn', 3)
  model = plain.clone(bottleneck=Bottleneck(8))
  images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
  variables = model.init(jax.random.key(0), to_float(images))
  own = {k: {'backbone': tree['backbone']} for k, tree in variables.items()}
  wide = extract(plain, own, images)
  narrow = Bottleneck(8).apply({'params': variables['params']['bottleneck']}, wide)
  np.testing.assert_allclose(extract(model, variables, images), narrow, rtol=1e-5)
  outputs = model.apply(variables, to_float(images))
  np.testing.assert_allclose(outputs['features'], narrow, rtol=1e-5, atol=1e-6)
  head = {'params': variables['params']['head']}
  logits = Linear(3).apply(head, {'features': narrow})
  np.testing.assert_allclose(outputs['logits'], logits, rtol=1e-5, atol=1e-6)
  # A head that was trained on these features joins both.
  whole, joined = join(model, variables, Head(Linear(3), head))
  got = whole.apply(joined, to_float(images))['logits']
  np.testing.assert_allclose(got, logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('norm', 'same'), [('layer', True), ('batch', False)])
def test_a_method_of_no_strength_is_the_source_alone_by_layer_norm(norm, same):
  model, optimizer = OnFeatures(Linear(3), Bottleneck(8, norm)), optax.sgd(0.1)
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
