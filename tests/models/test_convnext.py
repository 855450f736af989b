"""ConvNeXts compute what torchvision's, timm's and Keras' compute."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tljax import models, weights
from tljax.errors import InputError
from tljax.models import convnext


@pytest.mark.parametrize('name', convnext.SPECS)
def test_parameters_are_as_many_as_published(name):
  leaves = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(leaves))
  assert count == convnext.SPECS[name].parameters


@pytest.mark.torch
@pytest.mark.parametrize('name', ['convnext_tiny'])
def test_logits_are_torchvisions(name):
  module = getattr(oracles.torch_hub('torchvision').models, name)()
  oracles.check_torch_parity(name, module, 'torchvision', ((75, 97),))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize('name', convnext.SPECS)
def test_logits_are_timms(name):
  module = oracles.torch_hub('timm').create_model(name, num_classes=1000)
  oracles.check_torch_parity(name, module, 'timm', (64, (97, 75)))


@pytest.mark.torch
def test_timms_names_fit():
  with oracles.torch().device('meta'):
    timm = oracles.torch_hub('timm').create_model('convnext_tiny', num_classes=1000)
  oracles.assert_names_fit('convnext_tiny', 'timm', timm.state_dict())


@pytest.fixture
def keras_network(tmp_path):
  """Returns `name -> network of random weights, its files of two formats`."""
  keras = oracles.keras()
  from keras.src.legacy.saving import legacy_h5_format

  def make(name):
    constructor = {'tiny': 'Tiny', 'small': 'Small', 'base': 'Base'}[name[9:]]
    network = getattr(keras.applications, f'ConvNeXt{constructor}')(
      weights=None, classifier_activation=None, input_shape=(75, 97, 3), name=name
    )
    rng = np.random.default_rng(0)
    for variable in network.weights:
      center = 1.0 if variable.name == 'gamma' else 0.0
      if variable.ndim == 1:  # layer scale, too: its 1e-6 would hide the blocks
        variable.assign(rng.uniform(center - 0.2, center + 0.2, variable.shape))
    with h5py.File(tmp_path / 'weights.h5', 'w') as file:
      legacy_h5_format.save_weights_to_hdf5_group(file, network)
    network.save_weights(tmp_path / 'own.weights.h5')
    return network, tmp_path / 'weights.h5', tmp_path / 'own.weights.h5'

  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    yield make


@pytest.mark.keras
@pytest.mark.parametrize(
  'name',
  ['convnext_tiny']
  + [pytest.param(f'convnext_{n}', marks=pytest.mark.slow) for n in ('small', 'base')],
)
@pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')
def test_files_of_keras_give_its_logits(keras_network, name):
  network, nested, own = keras_network(name)
  variables = weights.load(name, nested)
  same = jax.tree.map(np.array_equal, variables, weights.load(name, own))
  assert all(jax.tree.leaves(same))
  x = oracles.images((75, 97))
  ours = jax.jit(models.create(name).apply)(variables, x)['logits']
  theirs = network(x * 255, training=False)
  oracles.assert_same_logits(ours, theirs)


def test_export_to_keras_is_refused(tmp_path):
  """It would skip the stem without a word, which is a model within its model."""
  with pytest.raises(InputError, match="no layout 'keras'; choose one of timm, torch"):
    weights.export({}, 'convnext_tiny', 'keras', tmp_path / 'a.h5')


@pytest.mark.torch
@pytest.mark.slow
def test_training_is_torchvisions():
  module = oracles.torch_hub('torchvision').models.convnext_tiny(
    stochastic_depth_prob=0.0
  )
  oracles.check_torch_training('convnext_tiny', module, 'torchvision', 64)
