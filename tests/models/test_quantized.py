import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import oracles
from tljax import models, train, weights
from tljax.extraction.features import extract
from tljax.finetuning import labels, plain
from tljax.models.quantized import quantize


def size(tree):
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


pytestmark = [
  pytest.mark.qwix,
  pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def lenient():
  """qwix promotes ranks and dtypes as it likes; the tests forbid it to us alone."""
  pytest.importorskip('qwix')
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    yield


def test_photographs_are_classified_as_by_floats(shared_data, photographs):
  folder = shared_data / 'squeezenet1_1_onnx'
  variables = weights.load(
    'squeezenet1_1', folder / 'derived_torchvision_names.safetensors'
  )
  model = models.create('squeezenet1_1')
  quantized, small = quantize(model, variables)
  assert size(small['params']['backbone']) < 0.27 * size(
    variables['params']['backbone']
  )
  np.testing.assert_array_equal(
    small['params']['head']['classifier']['kernel'],
    variables['params']['head']['classifier']['kernel'],
  )
  images, labels = photographs(256)
  exact, ours = (
    np.asarray(jax.jit(m.apply)(v, images)['logits'])
    for m, v in ((model, variables), (quantized, small))
  )
  assert np.mean(exact.argmax(-1) == ours.argmax(-1)) >= 0.9  # measured: 0.93
  right = [np.mean(logits.argmax(-1) == labels) for logits in (exact, ours)]
  assert right[1] >= right[0] - 0.03  # measured: 0.63, 0.63


@pytest.mark.parametrize('name', ['cnn', 'cifar_resnet20', 'vit_tiny_patch16_224'])
def test_features_are_near_those_of_floats(name):
  model = models.create(name, 5)
  spec = models.spec(name)
  x = oracles.images(spec.input_size, 4)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  quantized, small = quantize(model, variables)
  stored = np.uint8(255 * x)
  exact, ours = (
    extract(m, v, stored) for m, v in ((model, variables), (quantized, small))
  )
  kernels = [leaf for leaf in jax.tree.leaves(small) if leaf.dtype == jnp.int8]
  assert len(kernels) > 2
  error = np.linalg.norm(ours - exact) / np.linalg.norm(exact - exact.mean(0))
  assert 0 < error < 0.2
  assert jax.tree.structure(variables['params']['head']) == jax.tree.structure(
    small['params']['head']
  )


def test_a_head_trains_on_it(one_device):
  model, images = models.create('cnn', 5), oracles.images(32, 8)
  model, small = quantize(model, jax.jit(model.init)(jax.random.key(0), images))
  method = plain.method(*labels.freeze(model, optax.adamw(0.1), 'backbone/.*'))
  batch = {'image': np.asarray(images), 'label': np.arange(8, dtype=np.int32) % 5}
  state = method.init(jax.random.key(1), small, batch)
  state, records = train.fit(method, state, lambda _: batch, 20, mesh=one_device)
  assert records[-1]['loss'] < 0.9 * records[0]['loss']
  backbones = (tree['params']['backbone'] for tree in (small, state.variables))
  jax.tree.map(np.testing.assert_array_equal, *backbones)
