"""Eight fake devices, quick compilation, strict promotion, and the shared fixtures."""

import functools
import os
import pathlib
import tempfile
from importlib import metadata

# In the environment, so that the processes that tests start share it. What they run is
# small, and compiles for far longer than it computes: for a third as long this way.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1'
  # XLA dies of a flag that it does not know, which this one may be to another version.
  + ' --xla_cpu_use_fusion_emitters=false'
  * metadata.version('jaxlib').startswith('0.10.'),
)
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', f'{tempfile.gettempdir()}/tljax-tests-{os.getuid()}'
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from tljax import data, sharding
from tljax.data import batches, digits
from tljax.method import path_name
from tljax.models.base import Classifier, Linear, Spec

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')


def _lenient(function):
  """Spares a function of optax's that mixes floats and integers."""

  @functools.wraps(function)
  def spared(*args, **kwargs):
    with jax.numpy_dtype_promotion('standard'):
      return function(*args, **kwargs)

  return spared


optax.tree.bias_correction = _lenient(optax.tree.bias_correction)  # decay ** count
_cosine = optax.cosine_decay_schedule
optax.cosine_decay_schedule = lambda *args, **kwargs: _lenient(_cosine(*args, **kwargs))

BATCH_SIZE = 16  # divides over the eight devices


class TinyStage(nn.Module):
  """Strided convolution, batch norm, ReLU, dropout."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(8, (4, 4), strides=4, use_bias=False, name='conv')(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name='norm')(x)
    return nn.Dropout(0.1, deterministic=not train)(nn.relu(x))


class TinyBackbone(nn.Module):
  """Two stages, then the mean over space."""

  def setup(self):
    self.stage1, self.stage2 = TinyStage(), TinyStage()

  def __call__(self, x, train=False):
    stage1 = self.stage1(x, train)  # positional: freezing must see this too
    stage2 = self.stage2(stage1, train=train)
    features = jnp.mean(stage2, (1, 2))
    return {'stage1': stage1, 'stage2': stage2, 'features': features}


@pytest.fixture(scope='session')
def model():
  """A classifier of ten with all that goes wrong: batch norm and dropout."""
  spec = Spec(16, 16, (0.5,) * 3, (0.5,) * 3, ('stage1', 'stage2'), feature_dim=8)
  return Classifier(TinyBackbone(), Linear(10), spec)


@pytest.fixture(scope='session')
def domains():
  """Splits of the embedded pair, by name."""
  transform = data.Transform(digits.SIZE)
  return {name: data.load(name, transform) for name in digits.NAMES}


@pytest.fixture(scope='session')
def family_batches(domains):
  """By family of methods, its stream of batches of real digits."""
  source, target = (
    batches.stream(domains[name]['train'], BATCH_SIZE, seed=0) for name in digits.NAMES
  )
  return {'finetuning': source, 'adaptation': batches.pair(source, target)}


@pytest.fixture(scope='session')
def pixels():
  """Scikit-learn's digits: (N, 64) float32 in [0, 16], and (N,) int32."""
  features, labels = load_digits(return_X_y=True)
  return np.float32(features), np.int32(labels)


@pytest.fixture(scope='module')
def compile_fast():
  """For tiny networks, which compile for far longer than they compute."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def one_device():
  """A mesh of one device; `train.fit` takes all of them otherwise."""
  return sharding.data_mesh(jax.devices()[:1])


@pytest.fixture(scope='session')
def raw():
  """Returns `tree -> {path: bytes}`, to compare trees to the last bit."""

  def data(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

  def flatten(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): data(leaf) for path, leaf in leaves}

  return flatten


@pytest.fixture(scope='session')
def shared_data():
  """Folder of published files beside the checkout."""
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip(f'{folder} is absent')
  return folder


@pytest.fixture(scope='session')
def check_reference(shared_data):
  """Returns `(name, loss, inputs)`: holds a loss to a published library's in float64.

  The loss takes the inputs of these names, in order; the file has the value and, of
  some inputs, the gradient.
  """
  with np.load(shared_data / 'reference' / 'losses.npz') as file:
    arrays = dict(file)

  def check(name, loss, inputs):
    with jax.enable_x64(True):
      arguments = [jnp.asarray(arrays[f'input/{i}']) for i in inputs]
      gradients = tuple(range(len(inputs)))
      value, grads = jax.value_and_grad(loss, gradients)(*arguments)
    np.testing.assert_allclose(value, arrays[f'{name}/value'], rtol=1e-5)
    wanted = [f'{name}/grad_{i}' for i in inputs]
    assert any(i in arrays for i in wanted)
    for i, grad in zip(wanted, grads, strict=True):
      if i in arrays:
        np.testing.assert_allclose(grad, arrays[i], rtol=1e-5, atol=1e-9)

  return check


@pytest.fixture(scope='session')
def check_slow():
  """Returns `(loss, slow, *inputs)`: holds a loss and its gradients, in float64, to a
  slow NumPy version and its central differences.
  """

  def differences(slow, inputs, position):
    grad = np.zeros_like(inputs[position])
    for index in np.ndindex(grad.shape):
      ends = []
      for step in (1e-5, -1e-5):
        moved = [array.copy() for array in inputs]
        moved[position][index] += step
        ends.append(slow(*moved))
      grad[index] = (ends[0] - ends[1]) / 2e-5
    return grad

  def check(loss, slow, *inputs):
    inputs = [np.asarray(array, np.float64) for array in inputs]
    with jax.enable_x64(True):
      value, grads = jax.value_and_grad(loss, tuple(range(len(inputs))))(*inputs)
    np.testing.assert_allclose(value, slow(*inputs), rtol=1e-9)
    for position, grad in enumerate(grads):
      wanted = differences(slow, inputs, position)
      np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=1e-8)

  return check
