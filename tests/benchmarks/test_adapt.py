"""The benchmark of adaptation in miniature; its twins do the same work."""

import json

import jax
import numpy as np
import pytest

from benchmarks import adapt
from tests import oracles
from tljax import models

SMALL = {'lenet': (28, 500, 10, 4)}


def test_in_miniature(tmp_path, monkeypatch):
  monkeypatch.setattr(adapt, 'SIZES', SMALL)
  out = tmp_path / 'figures.json'
  adapt.adapt(adapt.Flags(out=out, cases=('lenet-cdan',), rounds=2, steps=1))
  (case,) = json.loads(out.read_text())['cases']
  assert (case['case'], case['batch_size']) == ('lenet-cdan', 4)
  assert case['tljax']['median'] > 0
  assert (case['ratio'] is None) == (adapt.torch is None)


@pytest.mark.torch
def test_the_twin_is_our_lenet():
  torch = oracles.torch()
  from benchmarks import torch_twins

  model = models.create('lenet', 10)
  images = np.random.default_rng(0).random((4, 28, 28, 3), np.float32)
  variables = model.init(jax.random.key(0), images)
  params = jax.device_get(variables['params'])
  twin, head = torch_twins.LeNet().eval(), torch.nn.Linear(500, 10)
  stages = params['backbone']
  layers = [layer for layer in twin.layers if hasattr(layer, 'weight')]
  for layer, name in zip(layers, ('stage1', 'stage2'), strict=False):
    kernel = stages[name]['conv']['kernel'].transpose(3, 2, 0, 1)
    layer.weight.data = torch.tensor(kernel)
    layer.bias.data = torch.tensor(stages[name]['conv']['bias'])
  dense = stages['hidden']['dense']
  kernel = dense['kernel'].reshape(4, 4, 50, 500).transpose(2, 0, 1, 3)
  layers[2].weight.data = torch.tensor(kernel.reshape(800, 500).T.copy())
  layers[2].bias.data = torch.tensor(dense['bias'])
  head.weight.data = torch.tensor(params['head']['classifier']['kernel'].T.copy())
  head.bias.data = torch.tensor(params['head']['classifier']['bias'])
  wanted = model.apply(variables, images)['logits']
  given = head(twin(torch.tensor(images.transpose(0, 3, 1, 2)))).detach().numpy()
  np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)
