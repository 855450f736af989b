import os

import jax
import numpy as np
import optax
import pytest

from tljax import inference, sharding
from tljax.finetuning import plain


@pytest.mark.parametrize('size', [1, 3, 4, 8, 9])
def test_in_batches_counts_every_row_once_in_one_compilation(size):
  traced = []

  @jax.jit
  def double(x):
    traced.append(x.shape)
    return 2 * x.sum(1)

  rows = np.arange(3 * size, dtype=np.float32).reshape(size, 3)
  result = inference.in_batches(double, rows, 4)
  np.testing.assert_array_equal(result, 2 * rows.sum(1))
  assert traced == [(4, 3)]


def test_predictor_is_predict_over_a_whole_set_in_one_compilation(model, domains):
  traced, method = [], plain.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, {'image': np.zeros((1, 16, 16, 3))})

  def predict(state, images):
    traced.append(images.shape)
    return method.predict(state, images)

  images = domains['digits']['validation'].images[:21]
  logits = inference.predictor(method._replace(predict=predict), batch_size=8)
  wanted = method.predict(state, images.astype(np.float32) / 255)
  np.testing.assert_allclose(logits(state, images), wanted, rtol=1e-4, atol=1e-6)
  logits(state, images[:5])
  assert traced == [(8, 16, 16, 3)]


def test_predictions_are_of_all_devices(model, one_device):
  """The same on shared and on whole states, for sets that do not divide."""
  images = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)
  method = plain.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, {'image': np.zeros((1, 16, 16, 3))})
  wanted = inference.predictor(method, 8)(state, images)
  mesh = sharding.parse_mesh('data=2,fsdp=4')
  shared = sharding.put(state, sharding.of_state(state, mesh))
  found = inference.predictor(method, 9)(shared, images)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('shape', 'size', 'batches'),
  [
    ((40, 64, 64, 3), 256, [32, 32]),
    ((17, 96, 96, 3), 256, [16, 16]),
    ((17, 300, 300, 3), 64, [16, 16]),
    ((17, 300, 300, 3), 8, [8, 8, 8]),
    ((40, 28, 28, 1), 256, [167]),
    ((40, 16, 16, 1), 256, [256]),
    ((40, 90000), 64, [64]),
  ],
)
def test_a_cpu_by_itself_takes_few_large_images_at_once(
  shape, size, batches, monkeypatch
):
  monkeypatch.setattr(os, 'cpu_count', lambda: 2)
  found = inference.padded_batches(np.zeros(shape, np.uint8), size)
  assert [len(batch) for batch in found] == batches
