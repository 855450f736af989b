import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models, train
from tljax.adaptation import dann
from tljax.adaptation.adversarial import Discriminator, ramp
from tljax.data import augment, batches, digits
from tljax.finetuning import labels, plain


class Points(nn.Module):
  """A network of points in the plane, without dropout or batch norm."""

  @nn.compact
  def __call__(self, x, train=False):
    features = nn.tanh(nn.Dense(16)(nn.tanh(nn.Dense(16)(x))))
    return {'features': features, 'logits': nn.Dense(2, name='head')(features)}


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  source, target = rng.normal(size=(100, 2)), rng.normal(1.0, size=(100, 2))
  labels = np.int32(source[:, 0] > 0)
  return {
    'source': {'image': np.float32(source), 'label': labels},
    'target': {'image': np.float32(target)},
  }


@pytest.mark.parametrize('strength', [0.0, 0.7, 3.0])
def test_one_step_is_the_two_optimisers_min_max(batch, strength):
  """The model descends task - strength x domain loss, the discriminator its own."""
  rate, model, discriminator = 0.1, Points(), Discriminator(width=8)
  batch = {
    'source': batch['source'],
    'target': {'image': batch['target']['image'][:60]},
  }
  method = dann.method(
    model, optax.sgd(rate), strength=strength, discriminator=discriminator
  )
  state = method.init(jax.random.key(0), None, batch)
  mine = {k: v for k, v in state.params.items() if k != 'discriminator'}

  def domain_loss(mine, theirs):
    def log_sigmoid(sign, images):
      features = model.apply({'params': mine}, images)['features']
      scores = discriminator.apply({'params': theirs}, features)
      return jnp.mean(jnp.log(1 + jnp.exp(-sign * scores)))

    source, target = batch['source']['image'], batch['target']['image']
    return (log_sigmoid(1, source) + log_sigmoid(-1, target)) / 2

  def model_loss(mine, theirs):
    logits = model.apply({'params': mine}, batch['source']['image'])['logits']
    rows = np.arange(len(batch['source']['label']))
    task = -jnp.mean(nn.log_softmax(logits)[rows, batch['source']['label']])
    return task - strength * domain_loss(mine, theirs)

  theirs = state.params['discriminator']
  descents = {
    **jax.grad(model_loss)(mine, theirs),
    'discriminator': jax.grad(domain_loss, 1)(mine, theirs),
  }
  expected = jax.tree.map(lambda p, g: p - rate * g, state.params, descents)
  after, _ = method.step(state, batch)
  assert jax.tree.structure(after.params) == jax.tree.structure(expected)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
    after.params,
    expected,
  )


def test_the_discriminator_is_not_deployed(batch):
  method = dann.method(Points(), optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch)
  del state.params['discriminator']
  assert method.predict(state, batch['target']['image']).shape == (100, 2)


def test_default_strength_is_the_published_libraries(batch):
  method = dann.method(Points(), optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch).replace(step=jnp.int32(700))
  _, metrics = method.step(state, batch)
  expected = 2 / (1 + np.exp(-0.7)) - 1
  np.testing.assert_allclose(metrics['strength'], expected, rtol=1e-5)


def test_a_frozen_model_stands_still_while_the_discriminator_learns(batch, raw):
  model, optimizer = labels.freeze(Points(), optax.adam(1e-3), 'Dense_.*', 'head/.*')
  method = dann.method(model, optimizer, strength=1.0)
  state = method.init(jax.random.key(0), None, batch)
  before = raw(state.params)
  step = jax.jit(method.step)
  for _ in range(10):
    state, _ = step(state, batch)
  after = raw(state.params)
  moved = {name.split('/')[0] for name in before if before[name] != after[name]}
  assert moved == {'discriminator'}


@pytest.mark.slow
def test_dann_beats_source_only_from_digits_to_digits_m(domains):
  """The quickstart's settings, one seed."""
  model, splits = models.create('cnn', 10), domains['digits-m']
  streams = [
    batches.stream(domains[name]['train'], 64, 0, augment.invert_contrast)
    for name in digits.NAMES
  ]
  steps = batches.steps_for(domains['digits']['train'], 70, 64)
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
  source_only = train.trial(
    plain.method(model, optimizer), streams[0], steps, splits, seed=0
  )
  adapted = train.trial(
    dann.method(model, optimizer, strength=ramp(steps)),
    batches.pair(*streams),
    steps,
    splits,
    seed=0,
  )
  assert adapted.accuracy > source_only.accuracy + 0.05, (
    source_only.accuracy,
    adapted.accuracy,
  )
