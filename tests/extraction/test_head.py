"""Backbone and head as one model say what they say in two stages."""

import jax
import numpy as np
import pytest

from tljax import models
from tljax.extraction.features import extract
from tljax.extraction.head import Head, as_outputs, join, linear
from tljax.models.base import FlattenMLP


@pytest.fixture(scope='module')
def images(domains):
  return domains['digits']['validation'].images[:20]


def head_for(features, kind):
  """A head of drawn weights for such features."""
  if kind == 'linear':
    kernel = np.random.default_rng(0).normal(size=(features.shape[-1], 4))
    return linear(kernel, np.arange(4))
  module = FlattenMLP(4, (6,))
  return Head(module, module.init(jax.random.key(1), as_outputs(features[:1])))


@pytest.mark.parametrize('kind', ['linear', 'mlp'])
@pytest.mark.parametrize(
  ('endpoint', 'pooling'),
  [('features', None), ('stage1', 'mean'), ('stage1', 'max'), ('stage2', 'flatten')],
)
def test_one_model_is_the_two_stages(model, variables, images, kind, endpoint, pooling):
  options = {'endpoint': endpoint, 'pooling': pooling}
  features = extract(model, variables, images, **options)
  head = head_for(features, kind)
  joined, together = join(model, variables, head, **options)
  outputs = joined.apply(together, np.float32(images / 255), train=False)
  np.testing.assert_allclose(
    outputs['logits'], head.logits(features), rtol=1e-5, atol=1e-5
  )
  assert set(together['params']) == {'backbone', 'head'}
  # A method takes it: nothing is missing, nothing is too much.
  drawn = joined.init(jax.random.key(0), np.float32(images / 255))
  assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, together)


def test_the_founding_head_stands_on_the_map():
  """Flatten, Dense, on the network without its top, as one plain classifier."""
  lenet = models.create('lenet').clone(head=FlattenMLP(2, (8,)))
  images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), np.uint8)
  variables = jax.jit(lenet.init)(jax.random.key(0), np.float32(images))
  features = extract(lenet, variables, images, endpoint='map')
  head = Head(lenet.head, lenet.head.init(jax.random.key(1), {'map': features}))
  joined, together = join(lenet, variables, head, endpoint='map')
  assert joined.head == lenet.head
  outputs = joined.apply(together, np.float32(images / 255))
  np.testing.assert_allclose(outputs['logits'], head.logits(features), atol=1e-5)
