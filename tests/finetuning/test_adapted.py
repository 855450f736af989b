"""What LoRA, (IA)^3, SSF, adapters and visual prompts keep."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.errors import InputError
from tljax.finetuning import adapters, ia3, lora, ssf
from tljax.finetuning.adapted import AdaptedModel

ADAPTERS = {
  'lora': lora.low_rank(2),
  'ia3': ia3.RESCALING,
  'ssf': ssf.SCALE_AND_SHIFT,
  'adapters': adapters.bottleneck(3),
}
METHODS = {'lora': lora, 'ia3': ia3, 'ssf': ssf, 'adapters': adapters}
MERGED = {'lora': lora, 'ia3': ia3, 'ssf': ssf}


pytestmark = pytest.mark.usefixtures('compile_fast')


class Perceptron(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(6, name='fc2')(nn.tanh(nn.Dense(5, name='fc1')(x)))


class Layers(nn.Module):
  """A convolutional stage and a token stage, with all that can be adapted."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(6, (3, 2), (2, 1), use_bias=False, name='conv1')(x)
    x = nn.BatchNorm(not train, name='norm1')(x)
    x = nn.Conv(6, (3, 3), feature_group_count=3, name='grouped')(nn.relu(x))
    x = nn.GroupNorm(2, name='norm2')(x).reshape(len(x), -1, 6)
    query, key, value = jnp.split(nn.Dense(18, name='qkv')(x), 3, -1)
    weights = nn.softmax(jnp.einsum('nqd,nkd->nqk', query, key))
    x += jnp.einsum('nqk,nkd->nqd', weights, value)
    x = nn.LayerNorm(name='norm3')(x + Perceptron(name='mlp')(x))
    return {'features': jnp.mean(x, 1)}


@pytest.fixture(scope='module')
def layers():
  spec = models.Spec(8, 8, (0.5,) * 3, (0.5,) * 3, ('all',), feature_dim=6)
  return models.Classifier(Layers(), models.Linear(3), spec)


@pytest.fixture(scope='module')
def images():
  return jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))


def moved(variables, part):
  """Variables whose adapters are off their start."""
  noise = optax.tree.random_like(jax.random.key(3), variables['params'][part])
  adapters = jax.tree.map(
    lambda leaf, n: leaf + 0.3 * n, variables['params'][part], noise
  )
  return {**variables, 'params': {**variables['params'], part: adapters}}


def plain_part(variables, part):
  params = {k: v for k, v in variables['params'].items() if k != part}
  return {**variables, 'params': params}


@pytest.mark.parametrize('name', ADAPTERS)
def test_it_starts_as_the_model_to_the_last_bit(name, layers, images, raw):
  wrapped = AdaptedModel(layers, ADAPTERS[name], 'backbone/.+')
  variables = wrapped.init(jax.random.key(1), images)
  base = plain_part(variables, name)
  assert raw(base) == raw(layers.init(jax.random.key(1), images))
  assert raw(wrapped.apply(variables, images)) == raw(layers.apply(base, images))
  if name in MERGED:
    assert raw(MERGED[name].merge(variables)) == raw(base)


@pytest.mark.parametrize('name', MERGED)
def test_merged_it_is_the_same_network(name, layers, images):
  wrapped = AdaptedModel(layers, ADAPTERS[name], 'backbone/.+')
  variables = moved(wrapped.init(jax.random.key(1), images), name)
  got = wrapped.apply(variables, images)
  merged = layers.apply(MERGED[name].merge(variables), images)
  chex.assert_trees_all_close(got, merged, rtol=1e-5, atol=1e-5)
  base = layers.apply(plain_part(variables, name), images)
  assert np.max(np.abs(got['logits'] - base['logits'])) > 0.05


@pytest.mark.parametrize('name', METHODS)
def test_training_moves_the_adapters_and_the_head_alone(
  name, model, family_batches, raw
):
  stream = family_batches['finetuning']
  method = METHODS[name].method(model, optax.adamw(1e-2))
  pretrained = model.init(jax.random.key(7), stream(0)['image'])
  state = method.init(jax.random.key(0), pretrained, stream(0))
  assert raw(plain_part(state.variables, name)) == raw(pretrained)
  before = raw((state.params['backbone'], state.model_state))
  trained = raw({k: state.params[k] for k in ('head', name)})
  step = jax.jit(method.step)
  for t in range(3):
    state, _ = step(state, stream(t))
  assert raw((state.params['backbone'], state.model_state)) == before
  after = raw({k: state.params[k] for k in ('head', name)})
  assert all(after[leaf] != trained[leaf] for leaf in trained)
  assert not any('backbone/' in leaf for leaf in raw(state.opt_state))
  if name in MERGED:
    images = stream(0)['image']
    merged = model.apply(MERGED[name].merge(state.variables), images)['logits']
    np.testing.assert_allclose(
      method.predict(state, images), merged, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('name', ADAPTERS)
def test_a_pattern_of_nothing_is_refused(name, layers, images):
  wrapped = AdaptedModel(layers, ADAPTERS[name], 'backbone/nothing')
  with pytest.raises(InputError, match="'backbone/nothing' matches no .*; mend it"):
    wrapped.init(jax.random.key(0), images)


@pytest.mark.parametrize('name', METHODS)
@jax.numpy_dtype_promotion('standard')  # flax's norms mix the two
def test_a_vision_transformer_in_bfloat16_with_remat(name):
  """Shapes alone; every block has its adapter."""
  options = {'image_size': 32, 'dtype': jnp.bfloat16, 'remat': True}
  model = models.create('vit_tiny_patch16_224', 10, **options)
  batch = {'image': jnp.ones((2, 32, 32, 3)), 'label': jnp.arange(2)}
  method = METHODS[name].method(model, optax.sgd(0.1))
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  after, _ = jax.eval_shape(method.step, state, batch)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  blocks = {path.split('|')[1] for path in state.params[name]}
  assert blocks >= {f'block{i + 1}' for i in range(12)}
