import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import method as method_lib
from tljax import optimizers
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.method import complete_variables, gradient_step, group_step, new_state


@pytest.fixture(scope='module')
def images():
  return jnp.zeros((2, 16, 16, 3))


@pytest.fixture(scope='module')
def variables(model, images):
  """Pretrained variables, told from freshly drawn ones by being 7 everywhere."""
  drawn = model.init(jax.random.key(0), images)
  return jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), drawn)


def complete(model, images, variables):
  return complete_variables(jax.random.key(1), model, images, variables)


@pytest.mark.parametrize('nothing', [None, {}])
def test_complete_variables_draws_all_from_the_key(model, images, nothing):
  """By another program than flax's own, so not always to the last bit."""
  drawn = complete(model, images, nothing)
  wanted = dict(model.init(jax.random.key(1), images))
  chex.assert_trees_all_close(drawn, wanted, rtol=1e-6)


def test_complete_variables_draws_only_the_missing_head(model, images, variables, raw):
  backbone = {
    'params': {'backbone': variables['params']['backbone']},
    'batch_stats': variables['batch_stats'],
  }
  completed = complete(model, images, backbone)
  drawn = complete(model, images, None)
  assert raw(completed['params']['head']) == raw(drawn['params']['head'])
  del completed['params']['head']
  assert raw(completed) == raw(backbone)


def test_complete_variables_draws_missing_statistics(model, images, variables, raw):
  completed = complete(model, images, {'params': variables['params']})
  assert raw(completed['params']) == raw(variables['params'])
  drawn = complete(model, images, None)
  assert raw(completed['batch_stats']) == raw(drawn['batch_stats'])


def test_complete_variables_copies(model, images, variables):
  completed = complete(model, images, variables)
  jax.tree.map(lambda leaf: leaf.delete(), completed)
  assert all(np.all(np.asarray(leaf) == 7) for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    (
      {'params': {'head': {'classifier': {'kernel': np.ones((8, 3))}}}},
      r'head/classifier/\w+',
    ),
    ({'params': {'head': {}}}, 'params/head/classifier/bias'),
    ({'params': {'neck': {'kernel': np.ones(3)}}}, 'params/neck'),
    ({'batch_stats': {'stem': {'mean': np.ones(3)}}}, 'batch_stats/stem'),
    ({'backbone': {'stage1': np.ones(3)}}, 'backbone'),
  ],
  ids=['shape', 'leaf', 'part', 'statistics', 'collection'],
)
def test_complete_variables_names_what_does_not_fit(model, images, change, named):
  with pytest.raises(InputError, match=named):
    complete(model, images, change)


def test_wrong_shape_is_named_with_both_shapes(model, images, variables):
  head = {'classifier': {'kernel': np.ones((8, 3)), 'bias': np.ones(10)}}
  with pytest.raises(InputError, match=r'params/head/classifier/kernel.*8, 10.*8, 3'):
    complete(model, images, {'params': {'head': head}})


def test_new_state_draws_extra_parts_from_abstract_outputs(model, images):
  def init_params(key, outputs):
    return {'critic': jax.random.normal(key, outputs['features'].shape[1:])}

  optimizer = optax.adam(1e-3)
  state = new_state(
    jax.random.key(0), model, optimizer, images, init_params=init_params
  )
  assert sorted(state.params) == ['backbone', 'critic', 'head']
  assert state.params['critic'].shape == (8,)
  chex.assert_trees_all_equal_shapes(state.opt_state[0].mu, state.params)
  assert sorted(state.variables) == ['batch_stats', 'params']
  assert int(state.step) == 0


def test_gradient_step_is_one_descent_of_the_loss():
  def loss_fn(params, state, batch, rng):
    del rng
    loss = jnp.sum((params['w'] - batch['x']) ** 2)
    return loss, (state.model_state, {'norm': jnp.sum(params['w'])})

  optimizer = optax.sgd(0.25)
  params = {'w': jnp.array([1.0, 2.0])}
  state = method_lib.TrainState(
    jnp.int32(3), jax.random.key(0), params, {}, optimizer.init(params)
  )
  state, metrics = gradient_step(loss_fn, optimizer)(
    state, {'x': jnp.array([3.0, -2.0])}
  )
  # w - 0.25 * 2 (w - x)
  np.testing.assert_array_equal(state.params['w'], [2.0, 0.0])
  assert (int(state.step), float(metrics['loss']), float(metrics['norm'])) == (4, 20, 3)


def test_each_step_has_randomness_of_its_own():
  def loss_fn(params, state, batch, rng):
    return params['w'] * jax.random.normal(rng), ({}, {'key': jax.random.key_data(rng)})

  optimizer = optax.sgd(0.0)
  params = {'w': jnp.ones(())}
  state = method_lib.TrainState(
    jnp.int32(0), jax.random.key(5), params, {}, optimizer.init(params)
  )
  step = gradient_step(loss_fn, optimizer)
  for t in range(3):
    state, metrics = step(state, {})
    expected = jax.random.fold_in(jax.random.key(5), t)
    np.testing.assert_array_equal(metrics['key'], jax.random.key_data(expected))


@pytest.fixture
def two_parts():
  """Returns `optimizer -> state` of two parts."""

  def build(optimizer):
    params = {'head': {'w': jnp.array([1.0, -2.0])}, 'other': {'w': jnp.ones(())}}
    opt_state = optimizer.init(params)
    return method_lib.TrainState(jnp.int32(0), jax.random.key(0), params, {}, opt_state)

  return build


def product(params, state, batch, rng):
  """A loss to which every part matters."""
  del batch, rng
  head, other = params['head']['w'], params['other']['w']
  return jnp.sum(head**2) * other, (state.model_state, {})


def test_group_step_is_the_optimisers_own_step_of_the_parts(two_parts):
  optimizer = optax.adamw(0.1, weight_decay=0.3)
  all_parts = optimizers.apart(optimizer)
  step = group_step(product, all_parts, lambda part: part == 'head')
  state = start = two_parts(all_parts)
  mine = {'head': state.params['head']}
  own, other = optimizer.init(mine), {'other': state.params['other']}
  for _ in range(3):
    grads = jax.grad(lambda head: product(head | other, start, {}, None)[0])(mine)
    updates, own = optimizer.update(grads, own, mine)
    mine = optax.apply_updates(mine, updates)
    state, metrics = step(state, {})
    chex.assert_trees_all_equal(state.params['head'], mine['head'])
  chex.assert_trees_all_equal(state.opt_state[0].nu['head'], own[0].nu['head'])
  assert float(state.params['other']['w']) == 1.0 and int(state.step) == 0
  assert sorted(metrics) == ['loss']


def test_group_step_reads_schedules_at_the_states_step(two_parts):
  """A descent at rate 1, 1, then, once the method has counted, 0."""
  rate = optax.sgd(lambda count: jnp.where(count < 1, 1.0, 0.0))
  optimizer = optimizers.apart(rate, ('head',))
  step = group_step(product, optimizer, lambda part: part == 'other')
  state, others = two_parts(optimizer), []
  for _ in range(2):
    state, _ = step(state, {})
    others.append(float(state.params['other']['w']))
  state, _ = step(state.replace(step=state.step + 1), {})
  others.append(float(state.params['other']['w']))
  np.testing.assert_allclose(others, [1 - 5, 1 - 10, 1 - 10])


def test_predict_is_in_evaluation_mode(model, images):
  method = plain.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, {'image': images})
  image = jax.random.uniform(jax.random.key(1), (3, 16, 16, 3))
  alone = method.predict(state, image[:1])
  np.testing.assert_allclose(
    method.predict(state, image)[:1], alone, rtol=1e-6, atol=1e-7
  )


def test_path_name():
  tree = {'backbone': {'stage1': [1, 2]}}
  paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
  assert list(map(method_lib.path_name, paths)) == [
    'backbone/stage1/0',
    'backbone/stage1/1',
  ]


def test_a_missing_part_is_drawn_as_it_would_be_with_all(model):
  """Alone, so that the rest is neither drawn nor compiled."""
  images = jnp.zeros((2, 16, 16, 3))
  whole = complete_variables(jax.random.key(3), model, images, None)
  backbone = {c: {'backbone': tree['backbone']} for c, tree in whole.items()}
  found = complete_variables(jax.random.key(3), model, images, backbone)
  chex.assert_trees_all_equal(found, whole)
  costs = [
    method_lib._jitted_init(model, parts).lower(jax.random.key(3), images).compile()
    for parts in (None, frozenset({('params', 'head')}))
  ]
  whole, alone = (cost.cost_analysis()['flops'] for cost in costs)
  assert alone < 0.3 * whole
