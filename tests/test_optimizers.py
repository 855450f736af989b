import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models, optimizers
from tljax.errors import InputError
from tljax.finetuning import bi_tuning, co_tuning, labels, lwf, plain
from tljax.method import path_name


@pytest.fixture
def params(model):
  return model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']


def update_of_ones(optimizer, params, steps=1):
  """The last of so many updates, whose gradients are all ones, by path."""
  state, ones = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
  for _ in range(steps):
    updates, state = optimizer.update(ones, state, params)
  leaves = jax.tree_util.tree_flatten_with_path(updates)[0]
  return {path_name(path): np.unique(leaf).tolist() for path, leaf in leaves}


def test_kernels_alone_decay(params):
  params = jax.tree.map(jnp.ones_like, params)
  optimizer = optax.add_decayed_weights(0.5, optimizers.decay_mask)
  for name, values in update_of_ones(optimizer, params).items():
    assert values == ([1.5] if name.endswith('/kernel') else [1.0]), name


def test_tokens_and_positions_do_not_decay():
  model = models.create('vit_tiny_patch16_224', 10)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  mask = optimizers.decay_mask(params)
  assert not mask['backbone']['embed']['positions']
  assert not mask['backbone']['embed']['class_token']
  assert mask['backbone']['block1']['qkv'] == {'kernel': True, 'bias': False}


def test_inverse_decay():
  schedule = optimizers.inverse_decay(0.01, gamma=0.1, power=0.5)
  np.testing.assert_allclose([schedule(0), schedule(30)], [0.01, 0.005], rtol=1e-6)
  published = [0.3 * (1 + 0.001 * t) ** -0.75 for t in (1, 1000)]
  got = [optimizers.inverse_decay(0.3)(jnp.int32(t)) for t in (1, 1000)]
  np.testing.assert_allclose(got, published, rtol=1e-6)


def test_depth_is_beits_layer_of_a_transformer():
  spec = models.spec('vit_base_patch16_224')
  paths = {
    'backbone/embed/patch/kernel': 0,
    'backbone/embed/class_token': 0,
    'backbone/block1/qkv/kernel': 1,
    'backbone/block12/fc2/bias': 12,
    'backbone/norm/scale': 13,
    'head/classifier/kernel': 13,
    'discriminator/Dense_0/kernel': 13,
  }
  assert {path: optimizers.depth(spec, path) for path in paths} == paths


def test_layer_decay_scales_rates_by_depth(model, params):
  optimizer = optax.chain(optax.sgd(1.0), optimizers.layer_decay(model.spec, decay=0.5))
  scale = {'stage1': 0.25, 'stage2': 0.5, 'classifier': 1.0}
  for name, values in update_of_ones(optimizer, params).items():
    assert values == [-scale[name.split('/')[1]]], name


def test_the_backbone_has_a_rate_of_its_own(params):
  optimizer = optax.chain(optax.sgd(1.0), optimizers.backbone_rate(0.125))
  for name, values in update_of_ones(optimizer, params).items():
    assert values == [-0.125 if name.startswith('backbone/') else -1.0], name


@pytest.mark.parametrize(
  ('method', 'part'),
  [(co_tuning, 'source_head'), (lwf, 'source_head'), (bi_tuning, 'projector')],
)
def test_the_rate_of_the_backbone_is_that_of_its_companions(
  model, family_batches, method, part
):
  """Beside a step of SGD whose rate is 1 for all."""
  stream, moves = family_batches['finetuning'], []
  for optimizer in (optimizers.backbone_rate(1.0), optimizers.backbone_rate(0.125)):
    made = method.method(model, optax.chain(optax.sgd(1.0), optimizer))
    state = made.init(jax.random.key(0), None, stream(0))
    after, _ = jax.jit(made.step)(state, stream(0))
    moves.append(jax.tree.map(jnp.subtract, after.params, state.params))
  whole, scaled = moves
  assert set(whole) == {'backbone', 'head', part}
  for name, factor in {'backbone': 0.125, part: 0.125, 'head': 1.0}.items():
    assert optax.tree.norm(whole[name]) > 1e-3
    wanted = optax.tree.scale(factor, whole[name])
    chex.assert_trees_all_close(scaled[name], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('part', 'start'), [('classifier', 0), ('stage2', 3), ('stage1', 6)]
)
def test_a_stage_moves_from_its_turn_on(model, params, part, start):
  optimizer = optax.chain(
    optax.sgd(1.0), optimizers.gradual_unfreezing(model.spec, every=3)
  )
  for steps in range(1, 9):
    updates = update_of_ones(optimizer, params, steps)
    moves = {values != [0.0] for name, values in updates.items() if part in name}
    assert moves == {steps > start}


def test_gradual_unfreezing_keeps_the_moments_and_compiles_once(
  model, family_batches, raw, caplog
):
  optimizer = optax.chain(
    optax.adam(1e-2), optimizers.gradual_unfreezing(model.spec, every=2)
  )
  method = plain.method(model, optimizer)
  stream = family_batches['finetuning']
  state = method.init(jax.random.key(0), None, stream(0))
  step, moved = jax.jit(method.step), []
  with jax.log_compiles():
    for t in range(5):
      before = raw(state.params)
      state, _ = step(state, stream(t))
      after = raw(state.params)
      moved.append({k.split('/')[1] for k in before if before[k] != after[k]})
  one, two = {'classifier'}, {'classifier', 'stage2'}
  three = two | {'stage1'}
  assert moved == [one, one, two, two, three]
  assert sum('Compiling jit(step)' in m for m in caplog.messages) == 1
  moments = state.opt_state[0][0].mu['backbone']['stage1']
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(moments))


@pytest.mark.parametrize('frozen', [(), ('backbone/stage1/.*',)])
@jax.numpy_dtype_promotion('standard')  # optax.MultiSteps mixes floats and integers
def test_accumulated_micro_batches_are_one_large_batch(frozen):
  """Without batch norm and dropout, and with each moved by the mean gradient."""
  spec = models.Spec(4, 4, (0.5,) * 3, (0.5,) * 3, ('stage1', 'stage2'), 3)
  model = models.Classifier(Stages(), models.Linear(4), spec)
  rng = np.random.default_rng(0)
  batch = {
    'image': np.float32(rng.uniform(size=(12, 4, 4, 3))),
    'label': rng.integers(0, 4, 12),
  }
  adam = optax.adam(optax.cosine_decay_schedule(0.1, 3))
  whole = plain.method(*labels.freeze(model, adam, *frozen))
  accumulated = optax.MultiSteps(adam, 3).gradient_transformation()
  parts = plain.method(*labels.freeze(model, accumulated, *frozen))
  wanted, got = (m.init(jax.random.key(0), None, batch) for m in (whole, parts))
  for _ in range(2):
    wanted, _ = whole.step(wanted, batch)
    for part in range(3):
      before = got.params
      micro = {k: v[4 * part : 4 * part + 4] for k, v in batch.items()}
      got, _ = parts.step(got, micro)
      same = jax.tree.map(np.array_equal, before, got.params)
      assert all(jax.tree.leaves(same)) == (part < 2)
  chex.assert_trees_all_close(got.params, wanted.params, rtol=1e-4, atol=1e-5)


class Stages(nn.Module):
  """Two stages that know nothing of the batch."""

  @nn.compact
  def __call__(self, x, train=False):
    del train
    x = nn.tanh(nn.Conv(3, (3, 3), name='stage1')(x))
    return {'features': jnp.mean(nn.tanh(nn.Conv(3, (3, 3), name='stage2')(x)), (1, 2))}


def test_clipping_ignores_what_is_frozen(params):
  chain = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
  rules = labels.freeze_rules('backbone/.*')
  optimizer = labels.transform({labels.TRAINED: chain}, rules)
  gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e6), params)
  gradient['head'] = jax.tree.map(
    lambda leaf: jnp.full_like(leaf, 0.01), params['head']
  )
  assert optax.tree.norm(gradient['head']) < 1
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  jax.tree.map(
    lambda u, g: np.testing.assert_array_equal(u, -g), updates['head'], gradient['head']
  )
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates['backbone']))


def test_rates_by_depth_go_with_freezing(model, params):
  chain = optax.chain(optax.sgd(1.0), optimizers.layer_decay(model.spec, decay=0.5))
  _, optimizer = labels.freeze(model, chain, labels.up_to(model.spec, 'stage1'))
  scale = {'stage1': 0.0, 'stage2': 0.5, 'classifier': 1.0}
  for name, values in update_of_ones(optimizer, params).items():
    assert values == [-scale[name.split('/')[1]]], name


def flops(function, *args):
  return jax.jit(function).lower(*args).compile().cost_analysis()['flops']


def test_each_frozen_stage_saves_its_backward_pass():
  model = models.create('cnn', 10)
  batch = {'image': jnp.zeros((16, 16, 16, 3)), 'label': jnp.zeros(16, jnp.int32)}
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-3, mask=optimizers.decay_mask),
    optimizers.layer_decay(model.spec),
  )

  def step_flops(*frozen):
    method = plain.method(*labels.freeze(model, optimizer, *frozen))
    return flops(method.step, method.init(jax.random.key(0), None, batch), batch)

  counts = [step_flops(labels.up_to(model.spec, s)) for s in model.spec.stages]
  counts = [step_flops(), *counts]
  # By products with windows of the padded n x n map, each gradient of a 3x3 convolution
  # takes (3n)^2 pairs of pixels. Two operations a multiply-add. The kernel's, of few
  # channels, has two results in a row of a kernel that is four wide: 4/3 as many. The
  # first stage has no input gradient; the second's goes when the first stage is frozen.
  shapes = ((16, 3, 16), (8, 16, 32), (4, 32, 64))
  products = [2 * 16 * (3 * n) ** 2 * i * o for n, i, o in shapes]
  kernels = [4 / 3 * products[0], 4 / 3 * products[1], products[2]]
  saved = -np.diff(counts)
  want = [kernels[0] + products[1], kernels[1] + products[2], kernels[2]]
  np.testing.assert_allclose(saved, want, rtol=0.2)  # the norms are the rest
  assert counts[-1] < counts[0] / 2


def test_apart_is_an_optimiser_for_each_group():
  """A clip, what Adam counts, decay and a schedule of the group's own updates."""
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(optax.linear_schedule(0.1, 0.0, 5), weight_decay=0.3),
  )
  rng = np.random.default_rng(0)

  def draw():
    return {k: {'w': jnp.float32(rng.normal(size=3))} for k in 'abc'}

  params, groups = draw(), ({'a', 'b'}, {'c'})
  both = optimizers.apart(optimizer, ('c',))
  state, own_params = both.init(params), params
  own = {i: optimizer.init({k: params[k] for k in g}) for i, g in enumerate(groups)}
  for turn in ({0}, {0, 1}, {1}, {0}, {0}, {1}):
    grads = {k: v for k, v in draw().items() if any(k in groups[i] for i in turn)}
    updates, state = both.update(grads, state, params)
    params = params | optax.apply_updates({k: params[k] for k in grads}, updates)
    for i in turn:
      mine = {k: own_params[k] for k in groups[i]}
      wanted = {k: grads[k] for k in groups[i]}
      updates, own[i] = optimizer.update(wanted, own[i], mine)
      own_params = own_params | optax.apply_updates(mine, updates)
    chex.assert_trees_all_equal(params, own_params)


@pytest.mark.parametrize('labelled', [False, True])
def test_apart_leaves_the_moments_of_other_parts(labelled):
  """Also of a part of the same group, and where labels have the names of parts."""
  optimizer = optax.sgd(0.1, momentum=0.9)
  if labelled:
    optimizer = optax.multi_transform(
      {'head': optimizer, 'other': optax.adam(0.1)},
      lambda params: {'head': 'other', 'other': 'head'},
    )
  optimizer = optimizers.apart(optimizer)
  params = {'head': {'w': jnp.array([1.0, -2.0])}, 'other': {'w': jnp.ones(())}}
  _, before = optimizer.update(params, optimizer.init(params), params)
  mine = {'head': params['head']}
  updates, after = optimizer.update(mine, before, params)
  assert updates.keys() == {'head'}

  def of_part(state, part):
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return [v for p, v in leaves if path_name(p).endswith(f'{part}/w')]

  assert len(of_part(before, 'other')) == 1 and np.any(of_part(before, 'other'))
  chex.assert_trees_all_equal(of_part(after, 'other'), of_part(before, 'other'))
  assert not np.array_equal(of_part(after, 'head')[0], of_part(before, 'head')[0])


def test_apart_refuses_to_accumulate_gradients_of_several_losses():
  steps = optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation()
  params = {'head': {'w': jnp.ones(2)}}
  with pytest.raises(InputError, match='larger batches'):
    optimizers.apart(optax.chain(steps, optax.identity())).init(params)
