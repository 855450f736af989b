import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import models
from tljax.finetuning import labels, lora
from tljax.finetuning.adapted import AdaptedModel


def adapted_model(model, pattern):
  return AdaptedModel(model, lora.low_rank(2), pattern)


def perturbed(variables, seed=0):
  """Variables whose B are not zero."""
  adapters = jax.tree.map(
    lambda leaf: leaf + 0.5 * jax.random.normal(jax.random.key(seed), leaf.shape),
    variables['params']['lora'],
  )
  return {**variables, 'params': {**variables['params'], 'lora': adapters}}


class Layers(nn.Module):
  """Layers of all sorts: strides, dilation, padding, groups, bias, tokens."""

  @nn.compact
  def __call__(self, x, train=False):
    del train
    x = nn.Conv(6, (3, 2), strides=(2, 1), padding='VALID', name='strided')(x)
    x = nn.Conv(6, (3, 3), kernel_dilation=2, use_bias=False, name='dilated')(
      nn.relu(x)
    )
    x = nn.Conv(6, (3, 3), padding=((2, 1), (0, 1)), name='padded')(nn.relu(x))
    x = nn.Conv(6, (3, 3), feature_group_count=6, name='grouped')(x)
    x = nn.Dense(5, name='tokens')(x.reshape(x.shape[0], -1, 6))
    features = jnp.mean(nn.Dense(4, use_bias=False, name='out')(nn.relu(x)), 1)
    return {'features': features}


@pytest.fixture(scope='module')
def layers():
  spec = models.Spec(8, 8, (0.5,) * 3, (0.5,) * 3, ('all',), feature_dim=4)
  return models.Classifier(Layers(), models.Linear(3), spec)


@pytest.fixture(scope='module')
def images():
  return jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))


def test_layers_of_all_sorts_are_adapted(layers, images):
  variables = adapted_model(layers, 'backbone/.*').init(jax.random.key(1), images)
  names = {name.split('|')[1] for name in variables['params']['lora']}
  assert names == {'strided', 'dilated', 'padded', 'tokens', 'out'}
  variables = perturbed(variables)
  got = adapted_model(layers, 'backbone/.*').apply(variables, images)
  merged = layers.apply(lora.merge(variables), images)
  chex.assert_trees_all_close(got, merged, rtol=1e-5, atol=1e-5)


def test_merging_adds_the_product_written_out(layers, images):
  adapted = adapted_model(layers, '.*(padded|tokens)')
  variables = perturbed(adapted.init(jax.random.key(1), images))
  merged = lora.merge(variables)['params']['backbone']
  before = variables['params']['backbone']
  adapters = variables['params']['lora']
  assert list(adapters) == ['backbone|padded', 'backbone|tokens']
  for name in ('padded', 'tokens'):
    a, b = adapters[f'backbone|{name}'].values()
    wanted = np.float64(before[name]['kernel'])
    for i in np.ndindex(wanted.shape):
      wanted[i] += sum(a[(*i[:-1], r)] * b[r, i[-1]] for r in range(2))
    np.testing.assert_allclose(merged[name]['kernel'], wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(merged['out']['kernel'], before['out']['kernel'])


def test_a_frozen_adapted_model_passes_its_spec_on(layers):
  adapted = adapted_model(layers, '.*')
  assert labels.FrozenModel(adapted, ('backbone/.*',)).spec == layers.spec
