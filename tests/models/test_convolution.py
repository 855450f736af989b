"""Convolutions as XLA's, with their gradients, however they are computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tljax.models import convolution, depthwise, strided, winograd
from tljax.models.convolution import Conv, convolve

XLA = functools.partial(
  lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
)
# Images, kernel, strides, padding: of stems, blocks, patches, and odd ones.
CASES = [
  ((4, 9, 8, 3), (3, 3, 3, 5), (1, 1), 'SAME'),
  ((4, 9, 8, 40), (3, 3, 40, 6), (1, 1), ((1, 1), (1, 1))),
  ((4, 9, 8, 33), (3, 3, 33, 6), (2, 2), ((1, 1), (0, 1))),
  ((2, 15, 16, 3), (7, 7, 3, 4), (2, 2), ((3, 3), (3, 3))),
  ((2, 9, 8, 6), (1, 1, 6, 4), (1, 1), 'VALID'),
  ((2, 9, 8, 6), (1, 1, 6, 4), (2, 2), 'SAME'),
  ((2, 9, 8, 6), (1, 1, 6, 4), (1, 1), ((1, 1), (1, 1))),
  ((2, 9, 8, 3), (4, 4, 3, 5), (4, 4), 'VALID'),
  ((2, 9, 8, 3), (4, 4, 3, 5), (4, 4), 'SAME'),
  ((6, 5, 7, 34), (3, 1, 34, 4), (1, 2), 'VALID'),
  # Wide, of few channels.
  ((4, 12, 12, 20), (5, 5, 20, 50), (1, 1), 'VALID'),
  ((4, 9, 11, 3), (5, 5, 3, 20), (1, 1), ((0, 2), (1, 0))),
  ((4, 14, 13, 3), (5, 5, 3, 64), (2, 2), ((2, 2), (2, 2))),
  ((3, 12, 21, 2), (3, 6, 2, 5), (2, 3), ((1, 0), (2, 3))),
  ((3, 8, 16, 4), (2, 5, 4, 200), (1, 2), 'SAME'),
  ((3, 9, 11, 3), (5, 5, 3, 64), (1, 1), 'VALID'),  # 7 in a row, by themselves
  ((2, 7, 26, 3), (2, 5, 3, 4), (3, 7), ((1, 0), (2, 1))),
  ((4, 12, 12, 3), (5, 5, 3, 4), (1, 1), ((-1, -1), (-1, 0))),
  # A stem.
  ((2, 9, 8, 3), (3, 3, 3, 5), (2, 2), ((1, 1), (0, 1))),
]
# Likewise, each channel by itself.
DEPTHWISE = [
  ((3, 9, 8, 5), (3, 3, 1, 5), (1, 1), 'SAME'),
  ((3, 9, 8, 5), (3, 3, 1, 5), (2, 2), ((1, 1), (1, 1))),
  ((3, 8, 9, 5), (5, 5, 1, 5), (2, 2), ((1, 2), (2, 2))),
  ((2, 9, 9, 4), (7, 7, 1, 4), (1, 1), ((3, 3), (3, 3))),
  ((2, 9, 10, 4), (2, 3, 1, 4), (3, 2), 'VALID'),
  ((2, 9, 10, 4), (1, 1, 1, 4), (2, 3), ((0, 1), (1, 0))),
  ((2, 9, 8, 4), (3, 3, 1, 4), (1, 2), ((-1, 0), (2, -2))),
  ((2, 112, 7, 3), (3, 3, 1, 3), (2, 2), ((0, 1), (1, 1))),  # 56 rows in strips of 28
]


@pytest.fixture(
  params=[
    {},
    {'_ROWS': 20, 'depthwise': {'_ROWS': 4, '_FEWEST': 1, '_NUMBERS': 99}},
    {'_ROWS': 20, '_COLUMNS': 0},
    {'_ROWS': 20, '_COLUMNS': 0, '_WIDE': 0},
    {'devices': 8},
    {'_WINDOWS': convolution._WINDOWS},
    {'_WINDOWS': convolution._WINDOWS, '_AT_ONCE': 1 << 15},
    {'_ALL_WINDOWS': convolution._ALL_WINDOWS, 'devices': 8},
    {'winograd': {'_CHANNELS': 1, '_PIXELS': 1}},
    {'strided': {'_CHANNELS': 1}},
    {'strided': {'_CHANNELS': 1, '_BYTES': 1 << 14}},
  ],
  ids=[
    'images',
    'strips',
    'rows of pixels',
    'pixels',
    'devices',
    'windows',
    'some windows',
    'windows on devices',
    'winograd',
    'strided',
    'some strided',
  ],
)
def devices(request, monkeypatch):
  """On one device some images at a time, or strips of one, on several all at once; what
  meets a kernel is laid side by side, a kernel's row is, or is not.
  """
  changes = {'_ROWS': 200, '_WINDOWS': 0, '_ALL_WINDOWS': 0, **request.param}
  count = changes.pop('devices', 1)
  of_modules = [
    (module, changes.pop(module.__name__.split('.')[-1], {}))
    for module in (depthwise, strided, winograd)
  ]
  monkeypatch.setattr(jax, 'device_count', lambda: count)
  for module, values in [*of_modules, (convolution, changes)]:
    for name, value in values.items():
      monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(
  ('devices', 'shape', 'by_xla'),
  [
    (1, (1024, 28, 28), False),
    (1, (8, 224, 224), True),
    (8, (8, 28, 28), False),
    (8, (1024, 28, 28), True),  # all windows at once are 169 MiB
  ],
)
def test_small_images_are_no_convolution_of_xlas(devices, shape, by_xla, monkeypatch):
  """Which takes twelve times as long for three channels to twenty."""
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  kernel = jnp.zeros((5, 5, 3, 20))

  def convolve(x):
    return convolution.convolve(x, kernel, (1, 1), 'VALID')

  traced = str(jax.make_jaxpr(convolve)(jnp.zeros((*shape, 3))))
  assert ('conv_general_dilated' in traced) is by_xla


@pytest.mark.parametrize(('shape', 'kernel', 'strides', 'padding'), CASES + DEPTHWISE)
def test_values_and_gradients_are_xlas(devices, shape, kernel, strides, padding):
  rng = np.random.default_rng(0)
  groups = {'feature_group_count': shape[3] // kernel[2]}
  with jax.enable_x64(True):
    x, kernel = (
      jnp.asarray(rng.normal(size=shape)),
      jnp.asarray(rng.normal(size=kernel)),
    )
    results = []
    for function in (XLA, convolve):
      out, pull = jax.vjp(
        lambda x, k, f=function: f(x, k, strides, padding, **groups), x, kernel
      )
      weights = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
      results.append((out, *pull(weights)))
  for wanted, given in zip(*results, strict=True):
    np.testing.assert_allclose(given, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
  ('size', 'kernel', 'stride', 'padding'),
  [
    ((31, 30), (7, 7, 3, 4), 2, ((3, 3), (3, 3))),
    ((32, 33), (3, 3, 3, 4), 2, ((1, 1), (0, 1))),
    ((29, 28), (5, 4, 1, 4), 3, 'VALID'),
    ((40, 41), (11, 11, 3, 4), 4, ((2, 2), (2, 2))),
  ],
)
def test_few_channels_as_blocks_on_a_gpu(monkeypatch, size, kernel, stride, padding):
  """Whose convolution has no strides is the same, and so are its gradients."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  rng, strides = np.random.default_rng(0), (stride, stride)
  results = []
  with jax.enable_x64(True):
    x, kernel = (
      jnp.asarray(rng.normal(size=s)) for s in ((2, *size, kernel[2]), kernel)
    )
    for function in (XLA, convolve):
      out, pull = jax.vjp(lambda x, k, f=function: f(x, k, strides, padding), x, kernel)
      results.append((out, *pull(jnp.cos(out))))
    lowered = jax.jit(convolve, static_argnums=(2, 3)).lower(
      x, kernel, strides, padding
    )
  assert 'stride = [1, 1]' in lowered.as_text()
  for wanted, given in zip(*results, strict=True):
    np.testing.assert_allclose(given, wanted, rtol=1e-10, atol=1e-10)


KERNELS = pytest.mark.parametrize('size', [3, 5])


@KERNELS
def test_gradients_of_gradients_are_xlas(devices, size):
  rng = np.random.default_rng(0)

  def penalty(function, x, kernel):
    inner = jax.grad(lambda x: jnp.sum(jnp.tanh(function(x, kernel, (2, 2), 'SAME'))))
    return jnp.sum(inner(x) ** 2)

  shapes = (4, 6, 6, 2), (size, size, 2, 3)
  with jax.enable_x64(True):
    x, kernel = (jnp.asarray(rng.normal(size=s)) for s in shapes)
    wanted, given = (
      jax.grad(functools.partial(penalty, function), (0, 1))(x, kernel)
      for function in (XLA, convolve)
    )
  for a, b in zip(given, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_second_derivatives_go_by_the_rule(monkeypatch):
  """But through the image's gradient, XLA's here: one of its kernel gradients, slow."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  x, kernel = jnp.ones((2, 64, 64, 8)), jnp.ones((3, 3, 8, 8))

  def penalty(kernel):
    inner = jax.grad(lambda x: jnp.sum(jnp.tanh(convolve(x, kernel, (1, 1), 'SAME'))))
    return jnp.sum(inner(x) ** 2)

  lines = str(jax.make_jaxpr(jax.grad(penalty))(kernel)).splitlines()
  kernels = [line for line in lines if 'f32[3,3,8,8]' in line.split('=')[0]]
  assert sum('conv_general_dilated' in line for line in kernels) == 1


def test_windows_of_many_images_are_not_laid_at_once(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  shape = 4096, 28, 28, 3
  kernel = jax.ShapeDtypeStruct((5, 5, 3, 20), jnp.float32)

  def loss(x, kernel):
    return jnp.sum(jnp.tanh(convolve(x, kernel, (1, 1), 'VALID')))

  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile()
  results = 4096 * 24 * 24 * 20 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * results


@KERNELS
@pytest.mark.parametrize('stride', [1, 2])
def test_many_networks_at_once(devices, size, stride):
  """As a sweep maps them: kernels and images of each."""
  rng = np.random.default_rng(0)
  x, kernels = (
    jnp.asarray(rng.normal(size=s), jnp.float32)
    for s in ((2, 4, 6, 6, 3), (2, size, size, 3, 5))
  )
  grad = jax.grad(lambda k, x: jnp.sum(convolve(x, k, (stride,) * 2, 'SAME') ** 2))
  wanted = jnp.stack([grad(k, i) for k, i in zip(kernels, x, strict=True)])
  np.testing.assert_allclose(jax.vmap(grad)(kernels, x), wanted, rtol=1e-4, atol=1e-4)


@KERNELS
def test_half_precision_sums_in_single(devices, size):
  x, kernel = (
    jnp.ones((8, 32, 32, 1), jnp.bfloat16),
    jnp.zeros((size, size, 1, 1), jnp.bfloat16),
  )
  grad = jax.grad(lambda k: jnp.sum(convolve(x, k, (1, 1), 'VALID')))(kernel)
  assert grad.dtype == jnp.bfloat16
  np.testing.assert_array_equal(grad.astype(np.float32), 8 * (33 - size) ** 2)


@pytest.mark.parametrize(
  'options',
  [
    {'feature_group_count': 4, 'rhs_dilation': (2, 2)},
    {'feature_group_count': 2},
    {'feature_group_count': 4},  # of two features each
  ],
)
def test_groups_and_dilations_are_left_to_xla(options):
  kernel = jnp.ones((3, 3, 4 // options['feature_group_count'], 8))
  given = jnp.ones((1, 6, 6, 4)), kernel, (1, 1), 'SAME'
  np.testing.assert_allclose(convolve(*given, **options), XLA(*given, **options))
  program = str(jax.make_jaxpr(lambda x: convolve(x, *given[1:], **options))(given[0]))
  assert 'conv_general_dilated' in program


def test_what_is_not_made_for_training_is_left_to_xla():
  x, kernel = jnp.ones((4, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
  cases = [
    ((x[:0], kernel), {}),
    ((x.astype(jnp.int32), kernel.astype(jnp.int32)), {}),
    ((x, kernel), {'batch_group_count': 2}),
    (
      (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)),
      {'preferred_element_type': jnp.float32},
    ),
  ]
  for (x, kernel), options in cases:
    given = convolve(x, kernel, (1, 1), 'SAME', **options)
    wanted = XLA(x, kernel, (1, 1), 'SAME', **options)
    assert given.dtype == wanted.dtype
    np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize('shape', [(8, 16, 16, 3), (2, 28, 28, 3)])
def test_depthwise_convolutions_in_half_precision_sum_in_single(shape, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  rng = np.random.default_rng(0)
  x, kernel = (jnp.asarray(rng.random(s), jnp.bfloat16) for s in (shape, (3, 3, 1, 3)))

  def both(function):
    forward = functools.partial(function, feature_group_count=3)
    out, pull = jax.vjp(lambda x, k: forward(x, k, (1, 1), 'SAME'), x, kernel)
    return out, *pull(jnp.ones_like(out))

  given = both(convolve)
  x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
  for a, wanted in zip(given, both(XLA), strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(a.astype(np.float32), wanted, rtol=5e-3)


@pytest.mark.parametrize('rows', [9, 28])
def test_depthwise_convolutions_of_penalties_and_of_stacks(rows, monkeypatch):
  """A second derivative, and `vmap`; of few rows and of many."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  rng = np.random.default_rng(0)

  def penalty(function, x, kernel):
    def loss(x, kernel):
      y = function(x, kernel, (1, 1), 'SAME', feature_group_count=2)
      return jnp.sum(jnp.tanh(y))

    return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, kernel))

  with jax.enable_x64(True):
    x = jnp.asarray(rng.normal(size=(2, 2, rows, 4, 2)))
    kernel = jnp.asarray(rng.normal(size=(2, 3, 3, 1, 2)))
    ours, theirs = (
      jax.vmap(jax.grad(functools.partial(penalty, f), (0, 1)))(x, kernel)
      for f in (convolve, XLA)
    )
    for given, wanted in zip(ours, theirs, strict=True):
      np.testing.assert_allclose(given, wanted, rtol=1e-9, atol=1e-9)


def test_it_can_be_switched_off():
  def program():
    forward = functools.partial(convolve, strides=(1, 1), padding='SAME')
    return str(jax.make_jaxpr(forward)(jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 2))))

  assert 'custom_vjp' in program()
  with convolution.by_xla():
    assert 'custom_vjp' not in program()


def test_flaxs_layer_with_another_gradient():
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  ours, flaxs = Conv(4, (3, 3)), Conv(4, (3, 3), conv_general_dilated=None)
  variables = ours.init(jax.random.key(1), x)
  wanted = flaxs.apply(variables, x)
  np.testing.assert_allclose(ours.apply(variables, x), wanted, rtol=1e-5, atol=1e-6)
