import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.adaptation import dann
from tljax.adaptation.adversarial import Discriminator
from tljax.errors import InputError
from tljax.extraction.linear import LinearProbe
from tljax.finetuning import labels, plain, summary

PARAMS = {
  'backbone': {'stage1': {'kernel': 1}, 'stage2': {'kernel': 2}},
  'head': {'bias': 3},
}
METHODS = {
  'finetuning': plain.method,
  'adaptation': lambda *args: dann.method(
    *args, strength=1.0, discriminator=Discriminator(width=8)
  ),
}


def test_the_first_rule_that_matches_the_whole_path_labels_a_leaf():
  rules = [('backbone/stage1/.*', 'low'), ('backbone/.*', 'mid'), ('.*', 'high')]
  assert labels.label_params(PARAMS, rules) == {
    'backbone': {'stage1': {'kernel': 'low'}, 'stage2': {'kernel': 'mid'}},
    'head': {'bias': 'high'},
  }


@pytest.mark.parametrize(
  ('rules', 'named'),
  [
    ([('backbone/.*', 'x')], "no label rule matches the parameter 'head/bias'"),
    ([('stage1/.*', 'x'), ('.*', 'y')], "'stage1/.*' matches no parameter"),
    ([('.*', 'y'), ('heads/.*', 'x')], "'heads/.*' matches no parameter"),
  ],
)
def test_a_leaf_without_rule_and_a_rule_without_leaf_are_named(rules, named):
  with pytest.raises(InputError, match=named.replace('*', r'\*')):
    labels.label_params(PARAMS, rules)


def test_a_pattern_may_be_covered_by_an_earlier_one():
  rules = labels.freeze_rules('backbone/.*', 'backbone/stage1/.*')
  assert labels.label_params(PARAMS, rules) == {
    'backbone': {'stage1': {'kernel': 'frozen'}, 'stage2': {'kernel': 'frozen'}},
    'head': {'bias': 'trained'},
  }


def test_freezing_nothing_that_exists_is_refused(model):
  method = plain.method(*labels.freeze(model, optax.sgd(0.1), 'bakbone/.*'))
  with pytest.raises(InputError, match=r"'bakbone/\.\*' matches no parameter"):
    method.init(jax.random.key(0), None, {'image': jnp.zeros((1, 16, 16, 3))})


def test_each_label_moves_by_its_own_optimiser():
  params = jax.tree.map(jnp.float32, PARAMS)
  rules = [
    ('backbone/stage1/.*', labels.FROZEN),
    ('backbone/.*', 'slow'),
    ('.*', 'fast'),
  ]
  optimizer = labels.transform({'slow': optax.sgd(0.1), 'fast': optax.sgd(10.0)}, rules)
  ones = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(ones, optimizer.init(params), params)
  stages = updates['backbone']
  assert stages['stage1']['kernel'] == 0
  np.testing.assert_allclose(stages['stage2']['kernel'], -0.1)
  np.testing.assert_allclose(updates['head']['bias'], -10.0)


@pytest.mark.parametrize('family', METHODS)
@pytest.mark.parametrize(
  'frozen', ['backbone/', 'backbone/stage1/', 'backbone/stage1/norm/', 'head/']
)
def test_a_frozen_part_does_not_move_by_a_bit(
  model, family_batches, raw, family, frozen
):
  # Weight decay moves a leaf whose gradient is zero.
  frozen_model, optimizer = labels.freeze(model, optax.adamw(1e-2), f'{frozen}.*')
  method = METHODS[family](frozen_model, optimizer)
  stream = family_batches[family]
  state = method.init(jax.random.key(0), None, stream(0))
  before = raw(state.params | state.model_state)
  moments = [m for m in raw(state.opt_state) if '/mu/' in m or '/nu/' in m]
  step = jax.jit(method.step)
  for t in range(10):
    state, _ = step(state, stream(t))
  after = raw(state.params | state.model_state)

  def is_frozen(name):
    return name.removeprefix('batch_stats/').startswith(frozen)

  assert any('norm/mean' in name for name in before)
  still = {name for name in before if before[name] == after[name]}
  assert still == {name for name in before if is_frozen(name)}
  trained = [name for name in raw(state.params) if not is_frozen(name)]
  assert len(moments) == 2 * len(trained)
  assert not any(frozen in name for name in moments)


def test_a_frozen_module_runs_in_evaluation_mode(model):
  images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
  variables = model.init(jax.random.key(1), images)

  def outputs(pattern, train=True):
    frozen, _ = labels.freeze(model, optax.sgd(0.1), pattern)
    return frozen.apply(
      variables, images, train=train, mutable=['batch_stats'], rngs={'dropout': key}
    )[0]

  key = jax.random.key(2)
  evaluated = model.apply(variables, images)
  whole = outputs('backbone/.*')
  np.testing.assert_array_equal(whole['features'], evaluated['features'])
  partial = outputs('backbone/stage1/.*')
  np.testing.assert_array_equal(partial['stage1'], evaluated['stage1'])
  assert not np.allclose(partial['stage2'], evaluated['stage2'])
  np.testing.assert_array_equal(
    outputs('head/.*', False)['stage2'], evaluated['stage2']
  )


def test_a_module_with_one_frozen_leaf_of_two_stays_in_training_mode(model):
  images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
  variables = model.init(jax.random.key(1), images)
  frozen, _ = labels.freeze(model, optax.sgd(0.1), 'backbone/stage1/conv/.*')
  options = {'mutable': ['batch_stats'], 'rngs': {'dropout': jax.random.key(3)}}
  got = frozen.apply(variables, images, train=True, **options)
  want = model.apply(variables, images, train=True, **options)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize('head', [False, True])
def test_surgical_tuning_moves_one_stage(model, family_batches, raw, head):
  frozen = (labels.all_but(model.spec, 'stage1'), *(() if head else ('head/.*',)))
  method = plain.method(*labels.freeze(model, optax.adamw(1e-2), *frozen))
  stream = family_batches['finetuning']
  state = method.init(jax.random.key(0), None, stream(0))
  before = raw(state.params | state.model_state)
  for t in range(2):
    state, _ = method.step(state, stream(t))
  after = raw(state.params | state.model_state)
  moved = {name for name in before if before[name] != after[name]}
  wanted = {n for n in before if '/stage1/' in n or (head and n.startswith('head/'))}
  assert moved == wanted


def test_all_but_a_stage_whose_name_begins_anothers():
  """'block1' is not 'block10'."""
  pattern = labels.all_but(models.spec('vit_base_patch16_224'), 'block1')
  for name, frozen in {'block1': False, 'block10': True, 'embed': True}.items():
    assert bool(re.fullmatch(pattern, f'backbone/{name}/norm/scale')) == frozen


@pytest.mark.parametrize('pattern', [labels.up_to, labels.all_but])
def test_an_unknown_stage_is_named(model, pattern):
  with pytest.raises(InputError, match="'stage9' is unknown; choose one of stage1, st"):
    pattern(model.spec, 'stage9')


def flops(function, *args):
  return jax.jit(function).lower(*args).compile().cost_analysis()['flops']


@pytest.mark.parametrize('clip', [False, True])
def test_a_frozen_step_costs_a_forward_pass_and_the_head(clip):
  model = models.create('cnn', 10)
  batch = {'image': jnp.zeros((16, 16, 16, 3)), 'label': jnp.zeros(16, jnp.int32)}

  def step_flops(model, optimizer, batch):
    if clip:
      optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    method = plain.method(model, optimizer)
    state = method.init(jax.random.key(0), None, batch)
    return flops(method.step, state, batch)

  adam = optax.adam(1e-3)
  variables = model.init(jax.random.key(0), batch['image'])
  forward = flops(
    lambda v, x: model.apply(v, x, method='embed')['features'],
    variables,
    batch['image'],
  )
  features = {'image': jnp.zeros((16, 64)), 'label': batch['label']}
  head = step_flops(LinearProbe(10), adam, features)
  frozen = step_flops(*labels.freeze(model, adam, 'backbone/.*'), batch)
  full = step_flops(model, adam, batch)
  np.testing.assert_allclose(frozen, forward + head, rtol=0.1)
  assert frozen < full / 2


def test_a_frozen_backbone_keeps_no_activations():
  """What a step holds within is what the forward pass holds; the head is small."""
  model, adam = models.create('cnn', 10), optax.adam(1e-3)
  batch = {'image': jnp.zeros((64, 16, 16, 3)), 'label': jnp.zeros(64, jnp.int32)}

  def held(method):
    state = summary.abstract_state(method, None, batch)
    step = summary.compiled_step(method, state, batch)
    return step.memory_analysis().temp_size_in_bytes

  variables = model.init(jax.random.key(0), batch['image'])
  forward = jax.jit(lambda v, x: model.apply(v, x)['logits'])
  forward = forward.lower(variables, batch['image']).compile().memory_analysis()
  frozen = held(plain.method(*labels.freeze(model, adam, 'backbone/.*')))
  assert frozen < 1.1 * forward.temp_size_in_bytes
  assert held(plain.method(model, adam)) > 2 * frozen
