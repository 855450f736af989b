"""Every architecture has the same doors. Shapes alone: no weights, no arithmetic."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import filled
from tljax import losses, models
from tljax.errors import InputError
from tljax.models.base import Classifier, Cosine, Linear
from tljax.weights import convert

NAMES = models.names()
# The smallest of each family, for what takes a second trace.
SMALL = sorted(
  {
    models.family(name): name
    for name in sorted(NAMES, key=lambda n: -models.spec(n).parameters)
  }.values()
)


# The smallest of each kind: names that differ in depth, width or letter alone are one.
KINDS = {
  re.sub(r'\d+|tiny|small|base|large|_[bl]_', '', name): name
  for name in sorted(NAMES, key=lambda n: -models.spec(n).parameters)
}
# Tracing all takes minutes; those of a kind share their code.
# By module: a network's tests follow each other and share its traces.
traced = pytest.mark.parametrize(
  'name',
  [
    name if name in KINDS.values() else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
  ],
  scope='module',
)


@functools.cache
def abstract(name, num_classes=7, train=False, **options):
  """Shapes of the outputs, the variables, and what training mode changes."""
  model = models.create(name, num_classes, **options)
  size = models.spec(name).input_size
  images = jnp.zeros((2, size, size, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))

  def apply(variables):
    return model.apply(
      variables,
      images,
      train=train,
      mutable=[k for k in variables if k != 'params'],
      rngs={'dropout': jax.random.key(1)},
    )

  outputs, state = jax.eval_shape(apply, variables)
  return outputs, variables, state


def test_there_are_models():
  assert 'cnn' in NAMES and NAMES == sorted(NAMES)


@traced
def test_doors(name):
  check_doors(name, train=False)


@pytest.mark.parametrize('name', SMALL)
def test_doors_in_training(name):
  check_doors(name, train=True)


def check_doors(name, train):
  outputs, variables, state = abstract(name, 7, train)
  spec = models.spec(name)
  assert outputs['features'].shape == (2, spec.feature_dim)
  assert outputs['logits'].shape == (2, 7)
  assert all(output.dtype == jnp.float32 for output in outputs.values())
  assert sorted(variables['params']) == ['backbone', 'head']
  collections = {k: v for k, v in variables.items() if k != 'params'}
  assert jax.tree.structure(dict(state)) == jax.tree.structure(collections)


@traced
def test_stages_can_be_tapped_and_frozen(name):
  outputs, variables, _ = abstract(name)
  stages = models.spec(name).stages
  assert set(stages) <= set(outputs)
  assert set(stages) <= set(variables['params']['backbone'])


@traced
def test_every_parameter_of_the_backbone_is_in_a_stage(name):
  _, variables, _ = abstract(name)
  assert set(variables['params']['backbone']) == set(models.spec(name).stages)


@traced
def test_the_classifier_is_called_so(name):
  _, variables, _ = abstract(name)
  assert variables['params']['head']['classifier']['bias'].shape == (7,)


@traced
def test_every_leaf_has_one_name_in_each_layout(name):
  _, variables, _ = abstract(name)
  shapes = {path: leaf.shape for path, leaf in convert.flatten(variables).items()}
  for layout in layouts_of(name).values():
    names = [name for names, _ in layout.names(shapes).values() for name in names]
    assert len(set(names)) == len(names) >= len(shapes)


def layouts_of(name):
  """Its layouts; networks that nobody publishes have none."""
  module = models.family(name)
  return module.layouts(name) if hasattr(module, 'layouts') else {}


@traced
def test_parameters_are_as_many_as_the_spec_says(name):
  _, variables, _ = abstract(name)
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))
  kernel = variables['params']['head']['classifier']['kernel']
  width = math.prod(kernel.shape[:-1]) + 1
  spec = models.spec(name)
  assert count + (spec.classes - 7) * width == spec.parameters


@traced
def test_multiply_adds_are_as_many_as_the_spec_says(name, monkeypatch):
  # On a CPU, depthwise convolutions are products and sums that the count misses; on a
  # GPU, few channels are filled with zeros.
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  spec = models.spec(name)
  model, size = models.create(name, spec.classes), spec.input_size
  images = jnp.zeros((1, size, size, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  jaxpr = jax.make_jaxpr(model.apply)(variables, images)
  count = multiply_adds(jaxpr.jaxpr) / 1e6
  # The spec's are whole millions.
  assert count == pytest.approx(spec.multiply_adds, rel=0.02, abs=0.5)


def multiply_adds(jaxpr):
  """Of its convolutions and matrix products."""
  total = 0
  for equation in jaxpr.eqns:
    shapes = [v.aval.shape for v in equation.invars if hasattr(v.aval, 'shape')]
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      total += out * math.prod(shapes[0][i] for i in contracted)
    elif equation.primitive.name == 'conv_general_dilated':
      kernel = equation.params['dimension_numbers'].rhs_spec
      shape = shapes[1]
      total += out * math.prod(shape) // shape[kernel[0]]
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += multiply_adds(inner)
  return total


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_gradients_are_finite(name):
  """Training beside the original, of one network a family, says that they are right."""
  spec = models.spec(name)
  size = spec.input_size if 'mixer' in name else 56 if 'patch14' in name else 64
  model, x = models.create(name, 5), jnp.full((1, size, size, 3), 0.3)
  variables = filled(jax.eval_shape(model.init, jax.random.key(0), x))

  @jax.jit
  def finite(params):
    def loss(params):
      logits = model.apply({**variables, 'params': params}, x)['logits']
      return losses.cross_entropy(logits, jnp.array([1]))

    grads = jax.tree.leaves(jax.grad(loss)(params))
    return jnp.stack([jnp.isfinite(g).all() for g in grads])

  assert finite(variables['params']).all()


@pytest.mark.parametrize('name', SMALL)
def test_options_keep_the_parameters_and_the_logits_float32(name):
  _, wanted, _ = abstract(name, train=True)
  options = {'remat': True, 'drop_path': 0.1, 'frozen_norm': True}
  options = {} if name == 'cnn' else options  # for digits; it has `dtype` alone
  with jax.numpy_dtype_promotion('standard'):  # flax's norms mix their dtypes
    outputs, variables, _ = abstract(name, train=True, dtype=jnp.bfloat16, **options)
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), wanted
  )
  assert outputs['logits'].dtype == jnp.float32
  assert outputs[models.spec(name).stages[1]].dtype == jnp.bfloat16


def test_an_unknown_option_is_named():
  with pytest.raises(InputError, match='resnet18.*depth'):
    models.create('resnet18', depth=3)


@pytest.mark.parametrize('name', SMALL)
def test_embed_runs_no_head(name):
  model, size = models.create(name, 7), models.spec(name).input_size
  images = jnp.zeros((1, size, size, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  headless = {**variables, 'params': {'backbone': variables['params']['backbone']}}
  outputs = jax.eval_shape(lambda v: model.apply(v, images, method='embed'), headless)
  assert 'features' in outputs and 'logits' not in outputs


@pytest.mark.parametrize('name', NAMES)
def test_spec_fits_the_images(name):
  spec = models.spec(name)
  assert len(spec.mean) == len(spec.std) == 3 and min(spec.std) > 0
  assert spec.resize >= spec.input_size
  assert models.create(name, 3).spec == spec


@pytest.mark.parametrize('door', [models.family, models.spec, models.create])
def test_unknown_model_lists_the_known(door):
  with pytest.raises(InputError, match="'alexnet' is unknown.*cnn"):
    door('alexnet')


class Mean(nn.Module):
  """A backbone that shows its input."""

  def __call__(self, x, train=False):
    return {'features': jnp.mean(x, (1, 2))}


def test_images_are_normalised_as_the_spec_says():
  spec = models.Spec(2, 2, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25), ('a',), 3)
  images = jnp.full((1, 2, 2, 3), 0.6)
  model = Classifier(Mean(), Linear(2), spec)
  outputs, _ = model.init_with_output(jax.random.key(0), images)
  np.testing.assert_allclose(outputs['features'], [[0.5, 0.8, 1.2]], rtol=1e-5)


def test_cnn_uses_batch_statistics_in_training_only():
  model = models.create('cnn', 3)
  images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
  variables = model.init(jax.random.key(1), images)

  def first(train, count):
    outputs, state = model.apply(
      variables, images[:count], train=train, mutable=['batch_stats']
    )
    return np.asarray(outputs['logits'][0]), state['batch_stats']

  np.testing.assert_allclose(first(False, 4)[0], first(False, 1)[0], rtol=1e-5)
  assert not np.allclose(first(True, 4)[0], first(True, 1)[0])
  same = jax.tree.map(np.array_equal, first(False, 4)[1], variables['batch_stats'])
  moved = jax.tree.map(np.array_equal, first(True, 4)[1], variables['batch_stats'])
  assert all(jax.tree.leaves(same)) and not any(jax.tree.leaves(moved))


def test_the_cosine_head_written_out():
  features = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  head = Cosine(3, temperature=0.1)
  variables = head.init(jax.random.key(0), {'features': features})
  kernel = np.asarray(variables['params']['classifier']['kernel'])
  logits = head.apply(variables, {'features': features})
  wanted = [f @ kernel / (0.1 * math.sqrt(sum(f * f))) for f in features]
  np.testing.assert_allclose(logits, wanted, rtol=1e-5)
  # Only the direction counts; and features that are all 0 are nan nowhere.
  np.testing.assert_allclose(
    head.apply(variables, {'features': 7 * features}), logits, rtol=1e-5
  )
  gradient = jax.grad(lambda x: jnp.sum(head.apply(variables, {'features': x})))
  assert np.all(np.isfinite(gradient(jnp.zeros((2, 4)))))
