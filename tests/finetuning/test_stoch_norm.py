import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.errors import InputError
from tljax.finetuning import labels, plain, stoch_norm
from tljax.finetuning.stoch_norm import StochasticNormModel

SPEC = models.Spec(4, 4, (0.0,) * 2, (1.0,) * 2, ('norm',), feature_dim=2)


class Norms(nn.Module):
  """Batch norm told how to run by the call, then one told by its constructor."""

  @nn.compact
  def __call__(self, x, train=False):
    norm = nn.BatchNorm(momentum=0.8, name='norm')(x, use_running_average=not train)
    last = nn.BatchNorm(not train, momentum=0.8, name='last')
    return {'norm': norm, 'features': last(jnp.mean(norm, (1, 2)))}


@pytest.fixture
def norms():
  model = models.Classifier(Norms(), models.Linear(3), SPEC)
  x = jax.random.normal(jax.random.key(0), (6, 4, 4, 2)) * 2 + 1
  variables = model.init(jax.random.key(1), x)
  noise = optax.tree.random_like(jax.random.key(2), variables, jax.random.uniform)
  return model, optax.tree.add(variables, noise), x


def train(model, variables, x, seed=0):
  return model.apply(
    variables,
    x,
    train=True,
    mutable=['batch_stats'],
    rngs={'dropout': jax.random.key(seed)},
  )


def branches(variables, name, x):
  """Both normalisations, written out in float64."""
  x = np.float64(x)
  params, stats = (
    jax.tree.map(np.float64, variables[collection]['backbone'][name])
    for collection in ('params', 'batch_stats')
  )
  axes = tuple(range(x.ndim - 1))
  for mean, var in ((x.mean(axes), x.var(axes)), (stats['mean'], stats['var'])):
    yield (x - mean) / np.sqrt(var + 1e-5) * params['scale'] + params['bias']


def test_each_channel_takes_one_of_both_branches(norms):
  model, variables, x = norms
  stochastic = StochasticNormModel(model, 0.5)
  taken = []
  for seed in range(40):
    outputs, _ = train(stochastic, variables, x, seed)
    for name, given in (('norm', x), ('features', outputs['norm'].mean((1, 2)))):
      key = {'features': 'last'}.get(name, name)
      by_batch, by_moving = branches(variables, key, given)
      for channel in range(2):
        got = outputs[name][..., channel]
        close = [
          np.allclose(got, wanted[..., channel], rtol=1e-4, atol=1e-4)
          for wanted in (by_batch, by_moving)
        ]
        assert sum(close) == 1
        taken.append(close[0])
  taken = np.array(taken).reshape(40, 4)
  # Four draws a step that go their own ways, fair within four deviations.
  assert np.all(np.abs(taken.mean(0) - 0.5) < 4 * 0.5 / np.sqrt(40))
  assert len(np.unique(taken, axis=0)) > 8


def test_the_moving_statistics_go_on_as_they_would(norms):
  model, variables, x = norms
  _, wanted = train(model, variables, x)
  _, got = train(StochasticNormModel(model, 0.5), variables, x)
  first = ('batch_stats', 'backbone', 'norm')
  for name in first:
    got, wanted = got[name], wanted[name]
  jax.tree.map(np.testing.assert_array_equal, dict(got), dict(wanted))


@pytest.mark.parametrize('train_mode', [False, True])
def test_with_the_batch_alone_or_in_evaluation_it_is_the_model(norms, train_mode, raw):
  model, variables, x = norms
  stochastic = StochasticNormModel(model, 1.0 if train_mode else 0.5)
  if train_mode:
    got, wanted = (train(m, variables, x) for m in (stochastic, model))
  else:
    got, wanted = (m.apply(variables, x) for m in (stochastic, model))
  assert raw(got) == raw(wanted)


def test_the_gradient_is_of_the_branches_taken(norms):
  """Of the moving branch it passes through no statistic."""
  model, variables, x = norms

  def loss(m):
    return lambda x: jnp.sum(jnp.sin(train(m, variables, x)[0]['norm']))

  got = jax.grad(loss(StochasticNormModel(model, 0.0)))(x)
  scale = np.float64(variables['params']['backbone']['norm']['scale'])
  var = np.float64(variables['batch_stats']['backbone']['norm']['var'])
  _, by_moving = branches(variables, 'norm', x)
  wanted = np.cos(by_moving) * scale / np.sqrt(var + 1e-5)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_frozen_norms_have_one_branch(model, family_batches, raw):
  stream = family_batches['finetuning']
  twins = []
  for build in (stoch_norm.method, plain.method):
    method = build(*labels.freeze(model, optax.sgd(0.1), 'backbone/.*'))
    state = method.init(jax.random.key(0), None, stream(0))
    twins.append(raw(method.step(state, stream(0))[0]))
  assert twins[0] == twins[1]


def test_a_network_without_batch_norm_is_refused():
  model = models.create('vit_tiny_patch16_224', 10, image_size=16)
  with pytest.raises(InputError, match='this has none'):
    jax.eval_shape(
      StochasticNormModel(model, 0.5).init, jax.random.key(0), jnp.ones((1, 16, 16, 3))
    )
