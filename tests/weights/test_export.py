"""Weights go back to the frameworks they came from, and fit other inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests import oracles
from tljax import models, weights
from tljax.errors import InputError
from tljax.weights import adapt, convert

NAME = 'resnet18'


@pytest.fixture(scope='module')
def variables():
  """Random variables of the network, batch statistics included."""
  shape = (1, 32, 32, 3)
  drawn = jax.jit(models.create(NAME, 5).init)(jax.random.key(0), jnp.zeros(shape))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: (
      rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
      if leaf.ndim == 1
      else np.asarray(leaf)
    ),
    drawn,
  )


def test_round_trip_is_bit_exact(variables, tmp_path, raw):
  path = tmp_path / 'a.safetensors'
  weights.export(variables, NAME, 'torchvision', path)
  assert raw(weights.load(NAME, path)) == raw(variables)
  weights.export(
    weights.load(NAME, path), NAME, 'torchvision', tmp_path / 'b.safetensors'
  )
  assert path.read_bytes() == (tmp_path / 'b.safetensors').read_bytes()


@pytest.mark.torch
def test_torch_takes_it_back(variables, tmp_path):
  module = oracles.torch_hub('torchvision').models.resnet18(num_classes=5).eval()
  path = tmp_path / 'a.safetensors'
  weights.export(variables, NAME, 'torchvision', path)
  tensors = safetensors.numpy.load_file(path)
  module.load_state_dict({k: oracles.torch().from_numpy(v) for k, v in tensors.items()})
  x = oracles.images(64)
  with oracles.torch().no_grad():
    theirs = module(oracles.torch().from_numpy(oracles.normalised(NAME, x))).numpy()
  ours = jax.jit(models.create(NAME, 5).apply)(variables, x)['logits']
  np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std())


@pytest.mark.torch
def test_timm_takes_it_back(tmp_path):
  name = 'convnext_tiny'
  module = oracles.torch_hub('timm').create_model(name, num_classes=5).eval()
  theirs = oracles.state_dict(oracles.randomise(module))
  variables = oracles.variables_of(name, theirs, 'timm', 5)
  path = tmp_path / 'a.safetensors'
  weights.export(variables, name, 'timm', path)
  tensors = safetensors.numpy.load_file(path)
  assert set(tensors) == set(theirs)
  fresh = oracles.torch_hub('timm').create_model(name, num_classes=5).eval()
  fresh.load_state_dict({k: oracles.torch().from_numpy(v) for k, v in tensors.items()})
  x = oracles.images(64)
  with oracles.torch().no_grad():
    theirs = fresh(oracles.torch().from_numpy(oracles.normalised(name, x))).numpy()
  ours = jax.jit(models.create(name, 5).apply)(variables, x)['logits']
  np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std())


def test_export_refuses_what_it_cannot_write(variables, tmp_path):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(b'precious')
  with pytest.raises(InputError, match='exists'):
    weights.export(variables, NAME, 'torchvision', path)
  assert path.read_bytes() == b'precious'
  with pytest.raises(InputError, match="'keras'.*torchvision"):
    weights.export(variables, NAME, 'keras', tmp_path / 'a.h5')
  with pytest.raises(InputError, match=r'\.pickle'):
    weights.export(variables, NAME, 'torchvision', tmp_path / 'a.pickle')
  headless = {**variables, 'params': {'backbone': variables['params']['backbone']}}
  with pytest.raises(InputError, match='head/classifier/bias.*missing'):
    weights.export(headless, NAME, 'torchvision', tmp_path / 'b.safetensors')
  assert [p.name for p in tmp_path.iterdir()] == ['a.safetensors']


def test_the_classifier_is_redrawn_for_other_classes(variables, tmp_path, raw, capsys):
  path = tmp_path / 'a.safetensors'
  weights.export(variables, NAME, 'torchvision', path)
  new = weights.load(NAME, path, num_classes=3)
  assert 'new classifier for 3 classes (the weights have 5)' in capsys.readouterr().err
  assert new['params']['head']['classifier']['kernel'].shape == (512, 3)
  assert raw(new['params']['backbone']) == raw(variables['params']['backbone'])
  other = weights.load(NAME, path, num_classes=3, key=jax.random.key(1))
  assert raw(new['params']['head']) != raw(other['params']['head'])


@pytest.mark.parametrize('damage', ['missing', 'extra', 'shape', 'nan', 'integer'])
def test_every_tensor_is_accounted_for(variables, tmp_path, damage):
  layout = models.family(NAME).layouts(NAME)['torchvision']
  tensors = convert.store(convert.flatten(variables), layout)
  name = 'layer2.0.conv1.weight'
  if damage == 'missing':
    del tensors[name]
  elif damage == 'extra':
    name = 'layer9.weight'
    tensors[name] = np.zeros(3, np.float32)
  elif damage == 'shape':
    tensors[name] = tensors[name][:5]
  elif damage == 'nan':
    tensors[name] = tensors[name] * np.float32(np.nan)
  else:
    tensors[name] = tensors[name].astype(np.int32)
  tensors['bn1.num_batches_tracked'] = np.array(3)  # carries nothing
  path = tmp_path / 'a.safetensors'
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(InputError, match=name) as error:
    weights.load(NAME, path)
  assert str(path) in str(error.value)


def test_grey_images_give_what_they_gave_as_rgb(variables, tmp_path):
  path = tmp_path / 'a.safetensors'
  weights.export(variables, NAME, 'torchvision', path)
  # With one normalisation for all channels the two must agree to rounding.
  spec = models.spec(NAME).with_channels(1)
  colour = models.create(NAME, 5)
  colour = colour.clone(spec=spec.with_channels(3))
  grey = models.create(NAME, 5, in_channels=1)
  x = oracles.images(40)[..., :1]
  wanted = colour.apply(variables, np.repeat(x, 3, -1))['logits']
  got = grey.apply(weights.load(NAME, path, in_channels=1), x)['logits']
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('channels', [2, 3, 4, 6])
def test_more_channels_keep_the_sum_on_a_flat_image(channels):
  kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
  kernel[:, :, 1] = kernel[:, :, 2] = kernel[:, :, 0]
  leaves = {'backbone/stem/conv/kernel': kernel, 'backbone/stem/norm/scale': np.ones(4)}
  adapted = adapt.in_channels(leaves, 'stem', channels)['backbone/stem/conv/kernel']
  assert adapted.shape == (3, 3, channels, 4)
  np.testing.assert_allclose(adapted.sum(2), kernel.sum(2), rtol=1e-5)


def test_six_channels_of_a_network_that_takes_blue_first():
  """The colours twice give what they gave once."""
  name, x = 'squeezenet1_1_keras', oracles.images(48)
  colour, six = (models.create(name, 5, in_channels=n) for n in (3, 6))
  variables = jax.jit(colour.init)(jax.random.key(0), x)
  leaves = convert.flatten(variables)
  adapted = adapt.in_channels(leaves, 'stage1', 6, colour.spec.channels)
  wanted = colour.apply(variables, x)['stage1']
  given = six.apply(convert.unflatten(adapted, variables), np.concatenate([x, x], -1))[
    'stage1'
  ]
  np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.torch
@pytest.mark.parametrize('channels', [1, 2, 4, 6])
def test_input_channels_adapt_as_timm_does(channels):
  oracles.torch_hub('timm')
  from timm.models import adapt_input_conv

  kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
  theirs = adapt_input_conv(
    channels, oracles.torch().from_numpy(kernel.transpose(3, 2, 0, 1).copy())
  ).numpy()
  ours = adapt.in_channels({'backbone/stem/kernel': kernel}, 'stem', channels)
  np.testing.assert_allclose(
    ours['backbone/stem/kernel'], theirs.transpose(2, 3, 1, 0), rtol=1e-5, atol=1e-6
  )


@pytest.mark.keras
def test_keras_takes_it_back(tmp_path):
  applications = oracles.keras().applications
  model = applications.ResNet50(
    weights=None, classifier_activation=None, classes=5, input_shape=(64, 64, 3)
  )
  shapes = jax.eval_shape(
    lambda: models.create('resnet50_keras', 5).init(
      jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda s: rng.uniform(0.01, 0.02, s.shape).astype(np.float32), shapes
  )
  path = tmp_path / 'a.h5'
  weights.export(variables, 'resnet50_keras', 'keras', path)
  model.load_weights(path, by_name=True)
  back = oracles.variables_of(
    'resnet50_keras', oracles.keras_tensors(model), 'keras', 5
  )
  chexed = jax.tree.map(np.array_equal, back, dict(variables))
  assert all(jax.tree.leaves(chexed))
