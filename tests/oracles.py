"""The published implementations: torchvision, timm and Keras, where installed.

A module of helpers for the parity tests, not a test. PyTorch is an oracle here and
no dependency of tljax.
"""

import functools
import importlib
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import models
from tljax.weights import convert


@functools.cache
def torch():
  """Returns torch; skips the test where it is absent."""
  return pytest.importorskip('torch')


@functools.cache
def torch_hub(name):
  """Returns torchvision or timm; skips the test where they are absent."""
  torch()
  importlib.import_module('benchmarks.torch_twins').declare_operators()
  return pytest.importorskip(name)


@functools.cache
def keras():
  """Returns Keras on the JAX backend."""
  os.environ['KERAS_BACKEND'] = 'jax'
  pytest.importorskip('keras')
  # Its initial weights are drawn anew by the tests; JAX would compile a draw of each
  # shape.
  random = importlib.import_module('keras.src.backend').random
  generator = np.random.default_rng(0)
  for name in ('normal', 'uniform', 'truncated_normal'):
    draw = functools.partial(_draw, getattr(generator, name.removeprefix('truncated_')))
    setattr(random, name, draw)
  return importlib.import_module('keras')


def _draw(draw, shape, dtype=None, seed=None, **bounds):
  del dtype, seed
  return jnp.asarray(draw(*bounds.values(), shape), jnp.float32)


def randomise(module, seed=0):
  """Draws a torch module's parameters and, above all, its batch statistics.

  Scales are near 1 and kernels as large as the module made them, so that signals
  keep their size; an identity batch norm would hide errors.
  """
  generator = torch().Generator().manual_seed(seed)

  def uniform(like, low, high):
    return low + (high - low) * torch().rand(like.shape, generator=generator)

  state = module.state_dict()
  for key, value in state.items():
    if not value.is_floating_point():
      continue
    if key.endswith('running_var'):
      state[key] = uniform(value, 0.5, 1.5)
    elif key.endswith('running_mean'):
      state[key] = uniform(value, -0.2, 0.2)
    elif value.ndim == 1:
      center = 1.0 if key.endswith('weight') else 0.0
      state[key] = uniform(value, center - 0.2, center + 0.2)
    elif value.numel() > 1:
      normal = torch().randn(value.shape, generator=generator)
      # Some heads and layer scales start as constants, which would hide the rest.
      state[key] = value.mean() + normal * (float(value.std()) or 0.02)
  module.load_state_dict(state)
  return module.eval()


def calibrate(module, x, seed=1):
  """Sets batch statistics near those of the images `x`, (N, 3, H, W).

  With others, signals fade: the logits of a random MobileNetV2 differ among images by
  1e-7 of what they differ among classes, and would hide an error in the first layers.
  """
  norms = [m for m in module.modules() if hasattr(m, 'running_var')]
  momenta = [norm.momentum for norm in norms]
  for norm in norms:
    norm.momentum = 1.0
  if norms:
    with torch().no_grad():
      module.train()(x)
  generator = np.random.default_rng(seed)
  for norm, momentum in zip(norms, momenta, strict=True):
    norm.momentum = momentum
    mean, var = near(norm.running_mean.numpy(), norm.running_var.numpy(), generator)
    norm.running_mean.copy_(torch().from_numpy(mean))
    norm.running_var.copy_(torch().from_numpy(var))
  module.eval()


def near(mean, var, generator):
  """Statistics that are not quite these. Larger variances keep deep networks of batch
  norms from magnifying rounding, which those of a small batch do.
  """
  moved = mean + np.sqrt(var) * generator.uniform(-0.2, 0.2, mean.shape)
  scaled = var * generator.uniform(1.0, 2.0, var.shape)
  return moved.astype(mean.dtype), scaled.astype(var.dtype)


def variables_of(name, tensors, layout, num_classes=1000):
  """Our variables from a publisher's tensors."""
  size = models.spec(name).input_size
  abstract = jax.eval_shape(
    lambda: models.create(name, num_classes).init(
      jax.random.key(0), jnp.zeros((1, size, size, 3))
    )
  )
  shapes = {path: leaf.shape for path, leaf in convert.flatten(abstract).items()}
  table = models.family(name).layouts(name)[layout]
  return convert.unflatten(convert.load(tensors, table, shapes), abstract)


def assert_names_fit(name, layout, tensors):
  """Asserts that a layout has exactly their tensors, of their shapes."""
  size = models.spec(name).input_size
  abstract = jax.eval_shape(
    lambda: models.create(name).init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
  )
  leaves = {path: leaf.shape for path, leaf in convert.flatten(abstract).items()}
  table = models.family(name).layouts(name)[layout]
  ours = {
    name: tensor.shape
    for path, (names, transform) in table.names(leaves).items()
    for name, tensor in zip(
      names, transform.store(np.broadcast_to(np.float32(0), leaves[path])), strict=True
    )
  }
  theirs = {k: tuple(v.shape) for k, v in tensors.items() if not table.is_ignored(k)}
  assert ours == theirs


def state_dict(module):
  """A torch module's tensors as NumPy arrays."""
  return {key: value.detach().numpy() for key, value in module.state_dict().items()}


def images(size, count=2, seed=0):
  """Smooth random images (N, H, W, 3) in [0, 1]: low frequencies, as photographs."""
  height, width = (size, size) if isinstance(size, int) else size
  coarse = np.random.default_rng(seed).random((count, 8, 8, 3), np.float32)
  fine = jax.image.resize(jnp.asarray(coarse), (count, height, width, 3), 'linear')
  return np.asarray(fine)


def normalised(name, x):
  """Images as the published network takes them: (N, 3, H, W), normalised."""
  spec = models.spec(name)
  x = x[..., ::-1] if spec.channels == 'BGR' else x
  mean, std = (np.asarray([[[v]]], x.dtype) for v in (spec.mean, spec.std))
  return np.ascontiguousarray(((x - mean) / std).transpose(0, 3, 1, 2))


def assert_same_logits(ours, theirs, tolerance=1e-4):
  """Largest difference within `tolerance` standard deviations, the same top five."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape
  spread = theirs.std()
  assert np.isfinite(theirs).all() and spread > 1e-6
  assert np.abs(ours - theirs).max() <= tolerance * spread, (
    f'{np.abs(ours - theirs).max() / spread:.2e} of the standard deviation'
  )
  top = [np.argsort(-x, axis=-1)[:, :5] for x in (ours, theirs)]
  np.testing.assert_array_equal(*top)


def check_torch_parity(
  name, module, layout, sizes=None, tolerance=1e-4, *, double=False, **options
):
  """Asserts that our network computes what a torch module does, in evaluation mode.

  Args:
    name: ours.
    module: theirs, with 1,000 classes; its weights are randomised here.
    layout: of its names.
    sizes: of the images; by default the model's own.
    tolerance: in standard deviations of the logits.
    double: in float64, for networks so deep that they magnify float32's rounding.
    **options: of our model.
  """
  randomise(module)
  sizes = sizes or (models.spec(name).input_size,)
  calibrate(module, torch().from_numpy(normalised(name, images(sizes[0]))))
  variables = variables_of(name, state_dict(module), layout)
  if double:
    module, variables = module.double(), jax.tree.map(np.float64, variables)
    options['dtype'] = np.float64
  apply = jax.jit(models.create(name, **options).apply)
  for size in sizes:
    x = images(size).astype(np.float64 if double else np.float32)
    with torch().no_grad():
      theirs = module(torch().from_numpy(normalised(name, x))).numpy()
    # flax's norms mix their dtypes.
    promotion = jax.numpy_dtype_promotion('standard' if double else 'strict')
    with jax.enable_x64(double), promotion:
      ours = apply(variables, x)['logits']
    assert_same_logits(ours, theirs, tolerance)


def check_torch_training(name, module, layout, size, tolerance=1e-5):
  """Asserts equal training-mode logits, batch statistics and gradients.

  Both compute in float64: in float32, rounding takes a few activations across the
  kinks of ReLU and the like, and batch norms of few values magnify it, to percents of
  some gradients. Our head's float32 is what is left.

  Args:
    name: ours.
    module: theirs, which draws nothing at random: without dropout. Ours is switched
      off here.
    layout: of its names.
    size: of the images.
    tolerance: in standard deviations of the logits, and of the gradients' norms.
  """
  randomise(module).double().train()
  tensors = {key: value.copy() for key, value in state_dict(module).items()}
  variables = jax.tree.map(np.float64, variables_of(name, tensors, layout))
  x, labels = images(size, count=4).astype(np.float64), np.arange(4) * 7

  theirs = module(torch().from_numpy(normalised(name, x)))
  torch().nn.functional.cross_entropy(theirs, torch().from_numpy(labels)).backward()

  # flax's norms mix their dtypes.
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
    grads, (ours, state) = _gradients(name, variables, x, labels)
  assert_same_logits(ours, theirs.detach().numpy(), tolerance)
  table = models.family(name).layouts(name)[layout]
  after = convert.flatten({'params': variables['params'], **state})
  _assert_same_statistics(convert.store(after, table), module, tensors)
  # Gradients are weights in our layout: they convert back as such.
  flat = convert.flatten({**variables, 'params': grads})
  _assert_same_gradients(convert.store(flat, table), module, tolerance)


def _gradients(name, variables, x, labels):
  """Of the mean cross-entropy; beside them the logits and the new statistics."""
  model = models.create(name, dtype=jnp.float64)

  def loss(params):
    with nn.intercept_methods(_without_dropout):
      outputs, state = model.apply(
        {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
      )
    picked = jax.nn.log_softmax(outputs['logits'])[np.arange(len(labels)), labels]
    return -picked.mean(), (outputs['logits'], state)

  options = {'xla_backend_optimization_level': 0}  # it compiles in a third of the time
  grad = jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)
  return grad(variables['params'])


def _without_dropout(call, args, kwargs, context):
  """For nn.intercept_methods."""
  return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)


def _assert_same_statistics(after, module, before):
  wanted = state_dict(module)
  for key in wanted:
    if key.endswith('running_mean'):
      np.testing.assert_allclose(after[key], wanted[key], atol=1e-6, err_msg=key)
    if key.endswith('running_var'):
      # PyTorch's takes the unbiased variance: the new part is n / (n - 1) larger, n
      # at least 4 images of one pixel.
      kept = 1 - module.get_submodule(key.rpartition('.')[0]).momentum
      moved, expected = (v[key] - kept * before[key] for v in (after, wanted))
      ratio = expected.sum() / moved.sum()
      assert 1 <= ratio <= 4 / 3 + 1e-6, key
      np.testing.assert_allclose(moved * ratio, expected, atol=1e-6, err_msg=key)


def _assert_same_gradients(ours, module, tolerance):
  squares = np.zeros(2)
  for key, parameter in module.named_parameters():
    theirs = parameter.grad.numpy()
    difference = np.linalg.norm(ours[key].reshape(theirs.shape) - theirs)
    scale = np.linalg.norm(theirs)
    squares += difference**2, scale**2
    # Biases before a batch norm have no gradient but rounding.
    assert difference <= 10 * tolerance * scale + 1e-6, (key, difference / scale)
  assert np.sqrt(squares[0] / squares[1]) <= tolerance


def keras_tensors(model):
  """A Keras model's tensors as our reader of Keras files names them."""
  return {
    f'{layer.name}/{variable.name}': np.asarray(variable.value)
    for layer in model.layers
    for variable in layer.weights
  }


def check_keras_parity(
  name, model, preprocess, sizes=None, tolerance=1e-4, layout='keras'
):
  """Asserts that our network computes what a Keras application does.

  Args:
    name: ours.
    model: theirs, without its softmax.
    preprocess: of images in [0, 255], theirs.
    sizes: of the images.
    tolerance: in standard deviations of the logits.
    layout: of Keras 3's names.
  """
  sizes = sizes or (models.spec(name).input_size,)

  @functools.partial(jax.jit, static_argnums=1)
  def call(x, training, *variables):
    return model.stateless_call(*variables, x, training=training)

  def theirs(x, training=False):
    variables = model.trainable_variables, model.non_trainable_variables
    values = [[variable.value for variable in group] for group in variables]
    # Keras promotes ranks and dtypes as it likes; the tests forbid it to us alone.
    with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
      x = jnp.asarray(preprocess((x * 255).copy()))
      logits, stored = call(x, training, *values)
    for variable, value in zip(variables[1], stored, strict=True):
      variable.assign(value)
    return np.asarray(logits)

  _randomise_keras(model, lambda: theirs(images(sizes[0]), training=True))
  variables = variables_of(name, keras_tensors(model), layout)
  apply = jax.jit(models.create(name).apply)
  for size in sizes:
    x = images(size)
    assert_same_logits(apply(variables, x)['logits'], theirs(x), tolerance)


def _randomise_keras(model, train):
  """As `randomise` and `calibrate`; `train` runs the model in training mode."""
  generator = np.random.default_rng(0)
  ranges = {'gamma': (0.8, 1.2), 'beta': (-0.2, 0.2), 'bias': (-0.2, 0.2)}
  for layer in model.layers:
    for variable in layer.weights:
      if variable.name in ranges:
        variable.assign(generator.uniform(*ranges[variable.name], variable.shape))
  norms = [layer for layer in model.layers if hasattr(layer, 'moving_variance')]
  momenta = [norm.momentum for norm in norms]
  for norm in norms:
    norm.momentum = 0.0
  if norms:
    train()
  for norm, momentum in zip(norms, momenta, strict=True):
    norm.momentum = momentum
    stored = (norm.moving_mean, norm.moving_variance)
    moved = near(*(np.asarray(variable.value) for variable in stored), generator)
    for variable, value in zip(stored, moved, strict=True):
      variable.assign(value)
