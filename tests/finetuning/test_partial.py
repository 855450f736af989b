import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from tljax import models
from tljax.finetuning import labels, plain
from tljax.method import path_name

PATTERNS = {
  'biases': labels.ALL_BUT_BIASES,
  'norms': labels.ALL_BUT_NORMS,
  'biases_and_norms': labels.ALL_BUT_BIASES_AND_NORMS,
}


def is_trained(kind, name):
  if name.startswith('head/'):
    return True
  of = {'biases': name.endswith('/bias'), 'norms': 'norm' in name.split('/')[-2]}
  return any(of[part] for part in kind.split('_and_'))


@functools.cache
def names_of(architecture):
  model = models.create(architecture, 10)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  paths = jax.tree_util.tree_flatten_with_path(params)[0]
  return params, [path_name(path) for path, _ in paths]


@pytest.mark.parametrize('kind', PATTERNS)
@pytest.mark.parametrize(
  'architecture', ['resnet18', 'vgg11_bn', 'vit_tiny_patch16_224']
)
def test_what_trains_in_published_networks(kind, architecture):
  params, names = names_of(architecture)
  rules = labels.freeze_rules(PATTERNS[kind])
  got = jax.tree.leaves(labels.label_params(params, rules))
  trained = {n for n, label in zip(names, got, strict=True) if label != labels.FROZEN}
  assert trained == {name for name in names if is_trained(kind, name)}
  # Every norm is found by its name: none has a scale elsewhere.
  scales = {name for name in names if name.endswith('/scale')}
  assert kind == 'biases' or (scales and scales <= trained)


@pytest.mark.parametrize('kind', PATTERNS)
def test_nothing_else_moves_by_a_bit(kind, model, family_batches, raw):
  stream = family_batches['finetuning']
  built = plain.method(*labels.freeze(model, optax.adamw(1e-2), PATTERNS[kind]))
  state = built.init(jax.random.key(0), None, stream(0))
  before, step = raw(state.params), jax.jit(built.step)
  for t in range(3):
    state, _ = step(state, stream(t))
  after = raw(state.params)
  moved = {name for name in before if before[name] != after[name]}
  assert moved == {name for name in before if is_trained(kind, name)}
  moments = [name for name in raw(state.opt_state) if '/mu/' in name]
  assert len(moments) == len(moved)


@pytest.mark.parametrize('kind', PATTERNS)
def test_kernels_gradients_are_not_computed(kind):
  model = models.create('cnn', 10)
  batch = {'image': jnp.zeros((16, 16, 16, 3)), 'label': jnp.zeros(16, jnp.int32)}

  def flops(built):
    state = built.init(jax.random.key(0), None, batch)
    compiled = jax.jit(built.step).lower(state, batch).compile()
    return compiled.cost_analysis()['flops']

  # See test_optimizers.py for the count of a convolution.
  shapes = ((16, 3, 16, 4 / 3), (8, 16, 32, 4 / 3), (4, 32, 64, 1))
  kernels = sum(2 * 16 * (3 * n) ** 2 * i * o * more for n, i, o, more in shapes)
  full = flops(plain.method(model, optax.sgd(0.1)))
  thin = flops(plain.method(*labels.freeze(model, optax.sgd(0.1), PATTERNS[kind])))
  assert 0.9 * kernels < full - thin < 1.2 * kernels
