"""Rates of dropout and of stochastic depth, layer by layer, beside the publishers'."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests import oracles
from tljax import models

pytestmark = pytest.mark.torch


def rates(name, size, **options):
  """Our layers' rates above 0, in the order of their calls."""
  found = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.rate:
      found.append(context.module.rate)
    return call(*args, **kwargs)

  def run():
    model = models.create(name, **options)
    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    with nn.intercept_methods(note):
      return model.init(keys, jnp.zeros((1, size, size, 3)), train=True)

  jax.eval_shape(run)
  return found


@pytest.mark.parametrize(
  ('name', 'drop_path'),
  [
    ('convnext_tiny', 0.1),
    # Its last of 16, or 26, blocks has 15/16, or 25/26, of what it is told.
    ('efficientnet_b0', 0.2 * 15 / 16),
    ('efficientnet_b3', 0.2 * 25 / 26),
    ('mobilenet_v2', 0.0),
    ('mobilenet_v3_small', 0.0),
    ('squeezenet1_1', 0.0),
    ('swin_t', 0.2),
    ('vgg11', 0.0),
  ],
)
def test_as_torchvision(name, drop_path):
  torch, torchvision = oracles.torch(), oracles.torch_hub('torchvision')
  kinds, called = (torch.nn.Dropout, torchvision.ops.StochasticDepth), []
  module = getattr(torchvision.models, name)(weights=None)
  for part in module.modules():
    if isinstance(part, kinds) and part.p:
      part.register_forward_hook(lambda part, *_: called.append(part))
  module(torch.zeros(2, 3, 64, 64))
  assert called
  wanted = pytest.approx([part.p for part in called])
  assert rates(name, 64, drop_path=drop_path) == wanted
