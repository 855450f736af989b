"""No convolution of XLA's is in a loop, where a CPU is slow to compute it."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tljax import adaptation, finetuning, models
from tljax.finetuning import delta

FAMILIES = {'adaptation': adaptation, 'finetuning': finetuning}
METHODS = [(name, m) for name, family in FAMILIES.items() for m in family.names()]


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch):
  """Programs are those of one CPU; they are traced alone, anywhere."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(jax, 'device_count', lambda: 1)


def convolutions(function, *arguments):
  """How many a program has, and how many of them are in loops."""
  found = list(_found(jax.make_jaxpr(function)(*arguments).jaxpr, looped=False))
  return len(found), sum(found)


def _found(jaxpr, looped):
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == 'conv_general_dilated':
      yield looped
    for inner in jax.tree.leaves(equation.params):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from _found(inner, looped or name in ('scan', 'while'))


def convolve(image):
  kernel = jnp.ones((3, 3, 1, 1))
  return jax.lax.conv_general_dilated(
    image, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@pytest.mark.parametrize(
  ('function', 'wanted'),
  [
    (convolve, (1, 0)),
    (lambda x: jax.lax.map(jax.jit(convolve), x[None]), (1, 1)),
    (lambda x: jax.lax.fori_loop(0, x.size, lambda _, x: convolve(x), x), (1, 1)),
    (jax.grad(lambda x: jax.lax.map(lambda x: convolve(x).sum(), x[None])[0]), (2, 2)),
  ],
  ids=['none', 'map', 'while', 'gradient'],
)
def test_those_in_loops_are_found(function, wanted):
  assert convolutions(function, jnp.ones((1, 4, 4, 1))) == wanted


@pytest.mark.parametrize(
  ('family', 'name'), METHODS, ids=[f'{f}.{m}' for f, m in METHODS]
)
def test_methods_have_none(family_batches, family, name):
  """In their first state, their step and their prediction."""
  batch = family_batches[family](0)
  model, optimizer = models.create('cnn', 10), optax.sgd(0.1)
  method = FAMILIES[family].create(name, model, optimizer)
  first = jax.random.key(0), None, batch
  state = jax.eval_shape(method.init, *first)
  image = batch.get('source', batch)['image']
  for function, *arguments in (
    (lambda key, batch: method.init(key, None, batch), first[0], batch),
    (method.step, state, batch),
    (method.predict, state, image),
  ):
    count, in_loops = convolutions(function, *arguments)
    assert count and not in_loops


def test_deltas_attention_has_none(family_batches):
  model, batch = models.create('cnn', 10), family_batches['finetuning'](0)
  variables = jax.eval_shape(model.init, jax.random.key(0), batch['image'])
  count, in_loops = convolutions(
    lambda *given: delta.channel_attention(model, given[0], given[1:], ('stage1',)),
    variables,
    batch,
  )
  assert count and not in_loops


@pytest.mark.parametrize(
  ('kernel', 'strides', 'groups'),
  [
    ((3, 3, 8, 8), 1, 1),
    ((5, 5, 3, 20), 1, 1),
    ((7, 7, 3, 64), 2, 1),
    ((3, 3, 64, 64), 1, 1),
    ((3, 3, 64, 64), 2, 1),
    ((3, 3, 1, 64), 1, 64),
  ],
)
def test_our_convolutions_loop_over_products_alone(kernel, strides, groups):
  """Forth and back, of so many images that they are convolved some at a time."""
  image = jax.ShapeDtypeStruct((64, 56, 56, kernel[2] * groups), jnp.float32)

  def loss(image, kernel):
    strided = (strides, strides)
    y = models.convolution.convolve(
      image, kernel, strided, 'SAME', feature_group_count=groups
    )
    return jnp.sum(y**2)

  step = jax.grad(loss, (0, 1))
  arguments = image, jax.ShapeDtypeStruct(kernel, jnp.float32)
  assert convolutions(step, *arguments)[1] == 0
  assert ' scan[' in str(jax.make_jaxpr(step)(*arguments))
