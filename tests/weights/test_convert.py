"""Conversion: every tensor and every leaf is used once, or named in the error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import models, weights
from tljax.errors import InputError
from tljax.models.layouts import KERAS, TORCH, Layout, Module, Tensor, Transform
from tljax.weights import convert, readers, writers

SHAPES = {
  'backbone/stem/conv/kernel': (3, 3, 2, 4),
  'backbone/stem/norm/scale': (4,),
  'backbone/stem/norm/bias': (4,),
  'backbone/stem/norm/mean': (4,),
  'backbone/stem/norm/var': (4,),
  'head/classifier/kernel': (4, 5),
  'head/classifier/bias': (5,),
}
RULES = (
  Module('backbone/stem/conv', 'conv1'),
  Module('backbone/stem/norm', 'bn1'),
  Module('head/classifier', 'fc'),
)
TORCHS, KERASS = Layout(TORCH, RULES, ignored=r'aux\..*'), Layout(KERAS, RULES)
LEAVES = {
  path: np.random.default_rng(i).random(shape, np.float32)
  for i, (path, shape) in enumerate(SHAPES.items())
}


@pytest.fixture
def tensors():
  return convert.store(LEAVES, TORCHS)


def test_names_and_axes(tensors):
  assert {name: value.shape for name, value in tensors.items()} == {
    'conv1.weight': (4, 2, 3, 3),
    'bn1.weight': (4,),
    'bn1.bias': (4,),
    'bn1.running_mean': (4,),
    'bn1.running_var': (4,),
    'fc.weight': (5, 4),
    'fc.bias': (5,),
  }
  kernel = LEAVES['backbone/stem/conv/kernel']
  np.testing.assert_array_equal(tensors['conv1.weight'][3, 1, 0, 2], kernel[0, 2, 1, 3])
  np.testing.assert_array_equal(tensors['bn1.bias'], LEAVES['backbone/stem/norm/bias'])


@pytest.mark.parametrize('layout', [TORCHS, KERASS])
def test_every_leaf_comes_back(layout):
  back = convert.load(convert.store(LEAVES, layout), layout, SHAPES)
  assert set(back) == set(LEAVES)
  for path, leaf in LEAVES.items():
    np.testing.assert_array_equal(back[path], leaf, strict=True)
    assert back[path].flags.c_contiguous


def test_the_layout_is_that_of_the_names(tensors):
  layouts = {'keras': KERASS, 'torchvision': TORCHS}
  assert convert.choose_layout(tensors, layouts, SHAPES) is TORCHS
  theirs = convert.store(LEAVES, KERASS)
  assert convert.choose_layout(theirs, layouts, SHAPES) is KERASS


@pytest.mark.parametrize('name', convert.store(LEAVES, TORCHS))
def test_every_tensor_is_missed(tensors, name):
  del tensors[name]
  with pytest.raises(InputError, match=f"lack '{name}'; they"):
    convert.load(tensors, TORCHS, SHAPES)


def test_what_is_missing_or_left_over_is_counted(tensors):
  some = {name: value for name, value in tensors.items() if not name.startswith('bn1')}
  with pytest.raises(InputError, match="lack 'bn1.bias' and 3 more"):
    convert.load(some, TORCHS, SHAPES)
  more = {'x.weight': np.zeros(1), 'x.bias': np.zeros(1)}
  with pytest.raises(InputError, match="hold 'x.bias' and 1 more, which the model has"):
    convert.load(tensors | more, TORCHS, SHAPES)


def test_what_carries_no_parameter_may_be_left_over(tensors):
  more = {'bn1.num_batches_tracked': np.array(3), 'aux.fc.weight': np.zeros(3)}
  back = convert.load(tensors | more, TORCHS, SHAPES)
  assert set(back) == set(SHAPES)


@pytest.mark.parametrize('name', convert.store(LEAVES, TORCHS))
@pytest.mark.parametrize(
  'change, named',
  [
    (lambda a: a[:-1], 'has shape'),
    (lambda a: a[None], 'has shape'),
    (lambda a: a.ravel()[0], 'has shape'),
    (lambda a: a.astype(np.int64), 'is int64; weights must be floats'),
    (lambda a: a > 0, 'is bool'),
    (lambda a: a.astype(np.complex64), 'is complex64'),
    (lambda a: a.astype(str), 'is <U'),
    (lambda a: a.astype('V4'), r'is \|V4'),
    (lambda a: a * np.float32(np.nan), 'NaN or infinity'),
    (lambda a: a + np.float32(np.inf), 'NaN or infinity'),
    (lambda a: a.astype(np.float64) + 1e300, 'NaN or infinity'),
  ],
)
def test_what_does_not_fit_is_named(tensors, name, change, named):
  tensors[name] = change(tensors[name])
  with pytest.raises(InputError, match=f"tensor '{name}' .*{named}|'{name}' {named}"):
    convert.load(tensors, TORCHS, SHAPES)


@pytest.mark.parametrize('dtype', [np.float16, np.float64, jnp.bfloat16])
def test_other_floats_become_float32(tensors, dtype):
  tensors = {name: value.astype(dtype) for name, value in tensors.items()}
  back = convert.load(tensors, TORCHS, SHAPES)
  for path, leaf in LEAVES.items():
    wanted = leaf.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(back[path], wanted, strict=True)


def test_a_leaf_without_a_rule_is_a_mistake_of_the_table():
  with pytest.raises(LookupError, match='head/other/kernel'):
    convert.load({}, TORCHS, SHAPES | {'head/other/kernel': (1, 1)})


def test_a_leaf_may_be_of_several_tensors():
  stack = Tensor('a/x', ('a', 'b'), Transform(lambda arrays, _: np.stack(arrays), list))
  layout = Layout(TORCH, (stack,))
  tensors = {'a': np.zeros(3, np.float32), 'b': np.ones(3, np.float32)}
  leaf = convert.load(tensors, layout, {'a/x': (2, 3)})['a/x']
  np.testing.assert_array_equal(leaf, [[0] * 3, [1] * 3])
  back = convert.store({'a/x': leaf}, layout)
  np.testing.assert_array_equal(back['b'], tensors['b'])
  with pytest.raises(InputError, match="'b' holds NaN"):
    convert.load(tensors | {'b': np.full(3, np.nan)}, layout, {'a/x': (2, 3)})


def test_flatten_and_unflatten():
  variables = {'params': {'a': {'b': 1}, 'c': 2}, 'batch_stats': {'a': {'m': 3}}}
  flat = convert.flatten(variables)
  assert flat == {'a/b': 1, 'c': 2, 'a/m': 3}
  assert convert.unflatten(flat, variables) == variables
  del flat['c']
  assert convert.unflatten(flat, variables)['params'] == {'a': {'b': 1}}


# Every format that is written, with a real model's every layout that fits it.


@pytest.mark.parametrize(
  'name, layout, suffix',
  [
    ('resnet18', 'torchvision', '.safetensors'),
    ('resnet18', 'torchvision', '.npz'),
    ('resnet50_keras', 'keras', '.h5'),
    ('mobilenet_v2', 'torchvision', '.safetensors'),
    ('convnext_tiny', 'timm', '.safetensors'),
    ('convnext_tiny', 'torchvision', '.npz'),
    ('squeezenet1_1', 'torchvision', '.npz'),
  ],
)
def test_a_round_trip_is_bit_exact(tmp_path, name, layout, suffix):
  shapes = weights._abstract(name, 7)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda s: rng.random(s.shape, np.float32), shapes)
  path, again = tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'
  weights.export(variables, name, layout, path)
  back = weights.load(name, path)
  assert jax.tree.structure(back) == jax.tree.structure(dict(variables))
  jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
  weights.export(back, name, layout, again)
  first, second = readers.read(path), readers.read(again)
  assert set(first) == set(second)
  assert all(first[n].tobytes() == second[n].tobytes() for n in first)


@pytest.mark.parametrize('bias', [np.float32(1), np.zeros(0, np.float32)])
def test_a_classifier_that_is_none(tmp_path, bias):
  variables = jax.tree.map(
    lambda s: np.zeros(s.shape, np.float32), weights._abstract('squeezenet1_1', 7)
  )
  layout = models.family('squeezenet1_1').layouts('squeezenet1_1')['torchvision']
  tensors = convert.store(convert.flatten(variables), layout)
  writers.write(tmp_path / 'a.npz', tensors | {'classifier.1.bias': np.asarray(bias)})
  with pytest.raises(InputError, match='classifier.1'):
    weights.load('squeezenet1_1', tmp_path / 'a.npz')
