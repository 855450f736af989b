"""Vision transformers compute what timm's and torchvision's compute."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import oracles
from tljax import models
from tljax.errors import InputError
from tljax.models import vit
from tljax.weights import convert


def timm_model(name, **options):
  timm = oracles.torch_hub('timm')
  return timm.create_model(name, num_classes=1000, dynamic_img_size=True, **options)


def leaves_of(name, seed=0):
  """Random leaves by path."""
  abstract = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
  )
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    center = 1.0 if path.endswith('scale') else 0.0
    return (center + rng.normal(0, 0.05, shape)).astype(np.float32)

  flat = convert.flatten(abstract)
  return {path: draw(path, leaf.shape) for path, leaf in flat.items()}, abstract


@pytest.mark.parametrize('name', vit.SPECS)
def test_parameters_are_as_many_as_published(name):
  leaves = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(leaves))
  assert count == vit.SPECS[name].parameters


@pytest.mark.torch
@pytest.mark.parametrize(
  'name',
  [
    'vit_tiny_patch16_224',
    pytest.param('deit_tiny_patch16_224', marks=pytest.mark.slow),
    pytest.param('vit_small_patch32_224', marks=pytest.mark.slow),
    pytest.param('vit_small_patch14_dinov2', marks=pytest.mark.slow),
    'vit_small_patch14_reg4_dinov2',
    pytest.param('vit_base_patch32_clip_quickgelu_224', marks=pytest.mark.slow),
    pytest.param('vit_base_patch16_clip_quickgelu_224', marks=pytest.mark.slow),
    pytest.param('vit_base_patch14_reg4_dinov2', marks=pytest.mark.slow),
    pytest.param('vit_base_patch16_224', marks=pytest.mark.slow),
    pytest.param('vit_large_patch32_224', marks=pytest.mark.slow),
  ],
)
def test_logits_are_timms(name):
  patch = vit._config(name).patch
  sizes = ((3 * patch, 5 * patch),)
  if 'patch32' in name:
    sizes += (224,)  # the positions as they are
  oracles.check_torch_parity(name, timm_model(name), 'timm', sizes)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize('name', ['vit_b_32', 'vit_b_16'])
def test_logits_are_torchvisions(name):
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision')


@pytest.mark.torch
def test_torchvisions_names_fit():
  torchvision = oracles.torch_hub('torchvision')
  with oracles.torch().device('meta'):
    theirs = torchvision.models.vit_b_32().state_dict()
  leaves, _ = leaves_of('vit_b_32')
  layouts = vit.layouts('vit_b_32')
  ours = convert.store(leaves, layouts['torchvision'])
  assert {k: v.shape for k, v in ours.items()} == {
    k: v.shape for k, v in theirs.items()
  }
  old = convert.store(leaves, layouts['torchvision_old'])
  renamed = {
    k.replace('mlp.linear_1.', 'mlp.0.').replace('mlp.linear_2.', 'mlp.3.') for k in old
  }
  assert renamed == set(ours) != set(old)


@pytest.mark.torch
def test_mean_pool_is_timms():
  name = 'vit_tiny_patch16_224'
  module = timm_model(name, global_pool='avg', fc_norm=False)
  oracles.check_torch_parity(name, module, 'timm', (64,), pool='mean')


@pytest.mark.torch
def test_training_is_timms():
  name = 'vit_tiny_patch16_224'
  oracles.check_torch_training(name, timm_model(name), 'timm', 64)


@pytest.mark.torch
@pytest.mark.parametrize('grid', [(7, 7), (9, 20), (24, 5)])
@pytest.mark.parametrize('prefix', [0, 1])
def test_positions_are_resized_as_timm_does(grid, prefix):
  oracles.torch_hub('timm')
  from timm.layers import resample_abs_pos_embed

  positions = np.random.default_rng(0).normal(size=(1, prefix + 196, 8))
  positions = positions.astype(np.float32)
  theirs = resample_abs_pos_embed(
    oracles.torch().from_numpy(positions), list(grid), num_prefix_tokens=prefix
  )
  ours = vit.resize_positions(jnp.asarray(positions), grid, prefix)
  np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)


def test_positions_keep_their_grid():
  positions = jnp.arange(10.0).reshape(1, 5, 2)
  assert vit.resize_positions(positions, (2, 2)) is positions
  with pytest.raises(ValueError, match='5 positions are not a square'):
    vit.resize_positions(positions, (2, 2), prefix=0)


@pytest.mark.torch
def test_googles_files_are_timms(tmp_path):
  name = 'vit_tiny_patch16_224'
  leaves, abstract = leaves_of(name)
  layout = vit.layouts(name)['google']
  stored = convert.store(leaves, layout)
  assert stored[
    'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/kernel'
  ].shape == (192, 3, 64)
  np.savez(tmp_path / 'vit.npz', **stored)
  module = timm_model(name).eval()
  module.load_pretrained(str(tmp_path / 'vit.npz'))
  _assert_same(name, convert.unflatten(leaves, abstract), module)
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  back = convert.load(stored, layout, shapes)
  for path, leaf in leaves.items():
    np.testing.assert_array_equal(back[path], leaf, err_msg=path)


@pytest.mark.torch
@pytest.mark.parametrize(
  'name, layout',
  [
    ('vit_small_patch14_dinov2', 'facebook'),
    ('vit_small_patch14_reg4_dinov2', 'facebook'),
    pytest.param(
      'vit_base_patch32_clip_quickgelu_224', 'openai', marks=pytest.mark.slow
    ),
  ],
)
def test_authors_files_are_timms(name, layout):
  """timm's own conversion of the authors' files is the oracle."""
  module = timm_model(name).eval()
  from timm.models.vision_transformer import checkpoint_filter_fn

  leaves, abstract = leaves_of(name)
  table = vit.layouts(name)[layout]
  stored = convert.store(leaves, table)
  rng = np.random.default_rng(1)
  classifier = {k: stored.pop(k) for k in list(stored) if 'classifier' in k}
  if layout == 'openai':
    stored['visual.proj'] = rng.normal(size=(768, 512)).astype(np.float32)
  else:
    stored['mask_token'] = np.zeros((1, 384), np.float32)
  if 'reg4' in name:  # any division between token and position is one model
    part = rng.normal(size=(1, 1, 384)).astype(np.float32)
    stored['cls_token'] = stored['cls_token'] - part
    stored['pos_embed'][:, :1] += part
  tensors = {k: oracles.torch().from_numpy(v) for k, v in stored.items()}
  theirs = checkpoint_filter_fn(tensors, module)
  if layout == 'openai':
    theirs['head.weight'] = oracles.torch().from_numpy(
      classifier['visual.classifier.weight']
    )
    theirs['head.bias'] = oracles.torch().from_numpy(
      classifier['visual.classifier.bias']
    )
  module.load_state_dict(theirs)
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  ours = convert.load({**stored, **classifier}, table, shapes)
  _assert_same(name, convert.unflatten(ours, abstract), module)


def _assert_same(name, variables, module):
  patch = vit._config(name).patch
  x = oracles.images((4 * patch, 3 * patch))
  with oracles.torch().no_grad():
    theirs = module(oracles.torch().from_numpy(oracles.normalised(name, x)))
  ours = jax.jit(models.create(name).apply)(variables, x)['logits']
  oracles.assert_same_logits(ours, theirs.numpy())


def test_image_size_is_of_the_positions():
  model = models.create('vit_tiny_patch16_224', 5, image_size=96)
  assert model.spec.input_size == 96 and model.spec.resize >= 96
  shape = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 96, 96, 3)))
  )['params']['backbone']['embed']['positions'].shape
  assert shape == (1, 37, 192)


def test_positions_can_be_resampled_once_for_all():
  """What a network of another size computes is what run time makes of the weights."""
  name, x = 'vit_tiny_patch16_224', oracles.images(96)
  leaves, abstract = leaves_of(name)
  wanted = jax.jit(models.create(name).apply)(convert.unflatten(leaves, abstract), x)
  path = 'backbone/embed/positions'
  resized = {**leaves, path: vit.resize_positions(jnp.asarray(leaves[path]), (6, 6))}
  model = models.create(name, image_size=96)
  outputs = jax.jit(model.apply)(convert.unflatten(resized, abstract), x)
  oracles.assert_same_logits(outputs['logits'], wanted['logits'], 1e-5)


@pytest.mark.parametrize('options', [{'image_size': 100}, {'pool': 'max'}])
def test_bad_options_are_named(options):
  with pytest.raises(InputError, match=str(next(iter(options.values())))):
    models.create('vit_tiny_patch16_224', **options)


@jax.numpy_dtype_promotion('standard')  # flax's layer norm promotes by itself
def test_half_precision_and_remat_keep_the_gradient():
  """Of the likelihood: the sum of layer-normed features would have none."""
  name, x = 'vit_tiny_patch16_224', oracles.images(32, count=8)
  params = jax.jit(models.create(name, 3).init)(jax.random.key(0), x)['params']

  def gradient(**options):
    model = models.create(name, 3, drop_path=0.5, **options)

    def loss(params):
      # With this key every branch is kept in an example and dropped in another.
      rngs = {'dropout': jax.random.key(2)}
      outputs = model.apply({'params': params}, x, train=True, rngs=rngs)
      return -jax.nn.log_softmax(outputs['logits'])[:, 0].mean(), outputs

    grads, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
    return convert.flatten({'params': grads}), outputs

  grads, outputs = gradient(dtype=jnp.bfloat16, remat=True)
  wanted, _ = gradient()
  assert outputs['logits'].dtype == jnp.float32
  assert outputs['block12'].dtype == jnp.bfloat16
  for path, grad in grads.items():
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0, path
  error = optax.tree.norm({path: grads[path] - wanted[path] for path in wanted})
  assert error < 0.05 * optax.tree.norm(wanted)
  # Both branches of the last block are dropped in one example of four.
  same = np.array(outputs['block12'] == outputs['block11']).all((1, 2))
  assert 0 < same.sum() < 8
