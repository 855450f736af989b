import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.gradients import as_float64, check_descent
from tljax import losses
from tljax.models.base import Classifier, Linear, Spec


class Points(nn.Module):
  """A network of points in the plane, without dropout or batch norm."""

  @nn.compact
  def __call__(self, x, train=False):
    features = nn.tanh(nn.Dense(6, name='hidden')(x))
    return {'features': features, 'logits': nn.Dense(3, name='head')(features)}


@pytest.fixture(scope='session')
def points():
  """The network: 'features' (N, 6), 'logits' (N, 3)."""
  return Points()


class Hidden(nn.Module):
  """One hidden layer of six."""

  @nn.compact
  def __call__(self, x, train=False):
    return {'features': nn.tanh(nn.Dense(6, name='hidden')(x))}


@pytest.fixture(scope='session')
def headed_points():
  """The network of `points` with a head that can be replaced, or applied alone."""
  return Classifier(Hidden(), Linear(3), Spec(0, 0, (0.0,), (1.0,), (), 6))


class NormedPoints(nn.Module):
  """The same with batch norm, which two domains see by turns or as one."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(6, name='hidden')(x)
    features = nn.BatchNorm(not train, momentum=0.9, name='norm')(x)
    return {'features': features, 'logits': nn.Dense(3, name='head')(nn.tanh(features))}


@pytest.fixture(scope='session')
def normed_points():
  """The network with batch norm: 'features' (N, 6), 'logits' (N, 3)."""
  return NormedPoints()


@pytest.fixture(scope='session')
def points_batch():
  """Eight labelled points and eight others, one class each a third."""
  rng = np.random.default_rng(0)
  source, target = rng.normal(size=(8, 2)), rng.normal(0.5, 2.0, size=(8, 2))
  return {
    'source': {'image': np.float32(source), 'label': np.arange(8, dtype=np.int32) % 3},
    'target': {'image': np.float32(target)},
  }


@pytest.fixture
def check_step(points, points_batch):
  """Returns `(build, term, batch, rtol)`: holds one step of SGD to a loss written out.

  `build(model, optimizer)` is the method; its step must descend the source's
  cross-entropy + `term(source outputs, target outputs)`, and report the term.
  """

  def check(build, term, batch=points_batch, rtol=1e-5):
    rate = 0.1

    def outputs(params, domain):
      return points.apply({'params': params}, batch[domain]['image'])

    def task(params):
      likely = nn.log_softmax(outputs(params, 'source')['logits'])
      labels = batch['source']['label']
      return -jnp.mean(likely[np.arange(len(labels)), labels])

    def added(params):
      return term(outputs(params, 'source'), outputs(params, 'target'))

    # A strength is a float32 number.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
      batch = as_float64(batch)
      method = build(points, optax.sgd(rate))
      state = as_float64(method.init(jax.random.key(0), None, batch))
      value, metrics = check_descent(method, state, batch, rate, task, added)
      np.testing.assert_allclose(metrics['alignment_loss'], value, rtol, 1e-7)

  return check


@pytest.fixture
def library_entropy(monkeypatch):
  """Puts the published library's entropy for ours: it adds 1e-5 in the logarithm."""

  def entropy(logits):
    predictions = nn.softmax(logits)
    return -jnp.sum(predictions * jnp.log(predictions + 1e-5), -1)

  monkeypatch.setattr(losses, 'entropy', entropy)


@pytest.fixture
def two_sources(points_batch):
  """The batch of points whose source is of two domains, by turns."""
  domain = np.arange(8, dtype=np.int32) % 2
  return {**points_batch, 'source': {**points_batch['source'], 'domain': domain}}
