import jax
import numpy as np
import pytest

from tljax.extraction.features import extract, extract_splits
from tljax.extraction.linear import LinearProbe


@pytest.fixture(scope='module')
def variables(model):
  drawn = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  # Statistics unlike the batch's tell evaluation mode from training mode.
  statistics = jax.tree.map(lambda leaf: leaf + 0.5, drawn['batch_stats'])
  return {**drawn, 'batch_stats': statistics}


@pytest.fixture(scope='module')
def outputs(model, variables, domains):
  images = domains['digits']['validation'].images.astype(np.float32) / 255
  return model.apply(variables, images)


@pytest.mark.parametrize('endpoint', ['features', 'stage1'])
@pytest.mark.parametrize('batch_size', [64, 7])
def test_extract_is_the_endpoint_of_every_image_in_order(
  model, variables, domains, outputs, endpoint, batch_size
):
  images = domains['digits']['validation'].images
  assert len(images) % batch_size
  got = extract(model, variables, images, endpoint=endpoint, batch_size=batch_size)
  assert isinstance(got, np.ndarray) and len(got) == len(images)
  np.testing.assert_allclose(got, outputs[endpoint], rtol=1e-4, atol=1e-6)


def test_extract_needs_no_head(model, variables, domains, outputs):
  headless = {
    'params': {'backbone': variables['params']['backbone']},
    'batch_stats': variables['batch_stats'],
  }
  got = extract(model, headless, domains['digits']['validation'].images)
  np.testing.assert_allclose(got, outputs['features'], rtol=1e-4, atol=1e-6)


def test_extract_splits_keeps_labels_and_classes(model, variables, domains):
  splits = domains['digits']
  features = extract_splits(model, variables, splits)
  assert list(features) == list(splits)
  for name, split in splits.items():
    assert features[name].images.shape == (len(split), 8)
    np.testing.assert_array_equal(features[name].labels, split.labels)
    assert features[name].classes == split.classes


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
