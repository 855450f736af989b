"""Sums of methods, by the names that `adaptation.create` takes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import adaptation
from tljax.adaptation import afn, mcc
from tljax.adaptation.adversarial import Discriminator
from tljax.adaptation.alignment import Aligned
from tljax.errors import InputError

RATE = 0.1
OPTIONS = {
  'mcc': {'strength': lambda step: 0.5 + jnp.float32(step), 'temperature': 1.5},
  'afn': {'strength': 0.2},
}


def test_a_sum_descends_all_the_losses(check_step):
  def term(source, target):
    growth = sum(
      0.2 * afn.norm_growth(outputs['features']) for outputs in (source, target)
    )
    return growth + 0.5 * mcc.class_confusion(target['logits'], 1.5)

  def build(model, optimizer):
    return adaptation.create('mcc+afn', model, optimizer, **OPTIONS)

  check_step(build, term)


def test_adversaries_and_strong_views_add_too(points, points_batch):
  """One step of SGD moves by the sum of what each moves beyond the source's loss."""
  options = {
    'dann': {'strength': 0.7, 'discriminator': Discriminator(width=5)},
    'fixmatch': {'threshold': 0.5, 'augment': lambda key, images: images + 0.5},
  }

  def move(name, **options):
    method = adaptation.create(name, points, optax.sgd(RATE), **options)
    state = method.init(jax.random.key(0), None, points_batch)
    state = state.replace(params=state.params | adversary(state.params))
    after, metrics = method.step(state, points_batch)
    return jax.tree.map(lambda a, b: a - b, after.params, state.params), metrics

  def adversary(params):
    return {'discriminator': fixed} if 'discriminator' in params else {}

  fixed = Discriminator(width=5).init(jax.random.key(3), np.zeros((1, 6)))['params']
  both, metrics = move('dann+fixmatch', **options)
  first, one = move('dann', **options['dann'])
  second, other = move('fixmatch', **options['fixmatch'])
  task, _ = move('entropy', strength=0.0)
  wanted = {k: first[k] for k in first}
  for part in task:
    wanted[part] = jax.tree.map(
      lambda a, b, c: a + b - c, first[part], second[part], task[part]
    )
  chex.assert_trees_all_close(both, wanted, rtol=1e-4, atol=1e-6)
  total = one['alignment_loss'] + other['alignment_loss']
  np.testing.assert_allclose(metrics['alignment_loss'], total, rtol=1e-5)
  np.testing.assert_allclose(metrics['strength'], 0.7)


@pytest.mark.parametrize('name', ['cdan+mcc', 'mcc+cdan'])
def test_what_one_part_holds_fixed_stays(points, points_batch, raw, name):
  """CDAN's random map, whichever comes last, from weight decay."""
  options = {'cdan': {'widest': 1}}
  method = adaptation.create(name, points, optax.adamw(0.1), **options)
  state = method.init(jax.random.key(0), None, points_batch)
  after, _ = method.step(state, points_batch)
  before, after = raw(state.params), raw(after.params)
  same = {k.split('/')[0] for k in before if before[k] == after[k]}
  assert same == {'random_map'}


def test_most_methods_add(model):
  def aligned(name):
    return isinstance(adaptation.create(name, model, optax.sgd(0.1)), Aligned)

  alone = {
    'adabn',
    'adda',
    'co_training',
    'dctn',
    'group_dro',
    'irm',
    'mcd',
    'mean_teacher',
    'mixstyle',
    'ovanet',
    'pada',
    'shot',
    'source_coral',
    'tent',
    'vrex',
    'wdgrl',
  }
  assert {name for name in adaptation.names() if not aligned(name)} == alone


@pytest.mark.parametrize('name', ['mme+mcc', 'mcc+mme'])
def test_the_sum_has_the_head_that_one_part_wants(model, family_batches, name):
  batch = family_batches['adaptation'](0)
  method = adaptation.create(name, model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch)
  assert state.params['head']['classifier'].keys() == {'kernel'}
  images = batch['target']['image']
  features = model.apply(state.variables, images, method='embed')['features']
  unit = features / np.linalg.norm(features, axis=1)[:, None]
  wanted = unit @ state.params['head']['classifier']['kernel'] / 0.05
  np.testing.assert_allclose(method.predict(state, images), wanted, rtol=1e-4)


def test_what_cannot_be_added_is_named(points, points_batch):
  with pytest.raises(InputError, match="'shot' does more.*no part of 'dann"):
    adaptation.create('dann+shot', points, optax.sgd(0.1))
  with pytest.raises(TypeError, match="'strength' is no part"):
    adaptation.create('dann+mcc', points, optax.sgd(0.1), strength=2.0)
  with pytest.raises(InputError, match="'what' is unknown"):
    adaptation.create('dann+what', points, optax.sgd(0.1))
  method = adaptation.create('dann+cdan', points, optax.sgd(0.1))
  with pytest.raises(InputError, match='two methods of the sum train a discriminator'):
    method.init(jax.random.key(0), None, points_batch)
