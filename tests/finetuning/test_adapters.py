import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.finetuning import adapters
from tljax.finetuning.adapted import AdaptedModel


class Stage(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    del train
    return nn.tanh(nn.Dense(4, name='fc')(x))


class Stages(nn.Module):
  remat: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    stage = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage
    first = stage(name='stage1')(x, train)
    second = stage(name='stage2')(first, train)
    return {'stage1': first, 'features': jnp.mean(second, (1, 2))}


@pytest.mark.parametrize('remat', [False, True])
def test_each_stage_written_out(remat):
  spec = models.Spec(2, 2, (0.0,) * 3, (1.0,) * 3, ('stage1', 'stage2'), feature_dim=4)
  model = models.Classifier(Stages(remat), models.Linear(2), spec)
  wrapped = AdaptedModel(model, adapters.bottleneck(3), 'backbone/[^/]+')
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(5, 2, 2, 3)))
  variables = wrapped.init(jax.random.key(0), x)
  params = jax.tree.map(
    lambda leaf: np.float32(rng.normal(size=leaf.shape)), variables['params']
  )

  def dense(x, layer):
    return x @ layer['kernel'] + layer['bias']

  def stage(x, name):
    y = np.tanh(dense(x, params['backbone'][name]['fc']))
    added = params['adapters'][f'backbone|{name}']
    return y + dense(np.maximum(dense(y, added['down']), 0), added['up'])

  first = stage(x, 'stage1')
  wanted = {'stage1': first, 'features': stage(first, 'stage2').mean((1, 2))}
  got = wrapped.apply({'params': params}, x, train=True)
  for name, value in wanted.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)

  def loss(params):
    return jnp.sum(wrapped.apply({'params': params}, x)['features'])

  grads = jax.grad(loss)(params)['adapters']
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_houlsbys_places():
  """Two in each block; 2 r d + r + d parameters each (Houlsby et al., section 2.1)."""
  model = models.create('vit_tiny_patch16_224', 10, image_size=32)
  method = adapters.method(
    model, optax.sgd(0.1), width=8, pattern='backbone/.*/(proj|fc2)'
  )
  batch = {'image': jnp.ones((1, 32, 32, 3)), 'label': jnp.zeros(1, jnp.int32)}
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  added = state.params['adapters']
  assert len(added) == 24
  for tree in added.values():
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == 2 * 8 * 192 + 8 + 192


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v2', 'convnext_tiny'])
def test_the_default_is_one_after_each_stage(name):
  model = models.create(name, 10)
  method = adapters.method(model, optax.sgd(0.1))
  batch = {'image': jnp.ones((1, 64, 64, 3)), 'label': jnp.zeros(1, jnp.int32)}
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  stages = {path.split('|')[1] for path in state.params['adapters']}
  assert stages == set(model.spec.stages)
