"""That what is not to be fused is not, and computes the same."""

import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models import create
from tljax.models.unfused import once, unfused


@pytest.mark.parametrize(('devices', 'calls'), [(1, 2), (8, 0)])
def test_a_call_stays_one(devices, calls, monkeypatch):
  """On one device; several would not partition it."""
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  scaled = unfused(lambda x: 3 * x)
  lowered = jax.jit(lambda x: once(scaled(x + 1)) - 1).lower(jnp.ones(5))
  compiled = lowered.compile()
  assert compiled.as_text().count(' call(') == calls
  assert ('optimization_barrier' in lowered.as_text()) is bool(calls)
  np.testing.assert_array_equal(compiled(jnp.ones(5)), 5.0)


def test_gradients_and_batches_pass_through(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  cube = unfused(lambda x: once(x) ** 3)
  x = jnp.arange(1.0, 4.0)
  np.testing.assert_allclose(jax.vmap(jax.grad(cube))(x), 3 * x**2)
  np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(cube)))(x), 6 * x)
  np.testing.assert_allclose(jax.jit(jax.jacfwd(cube))(x), jnp.diag(3 * x**2))


def test_gradients_do_not_pass_by_a_call(monkeypatch):
  """What it gives back as it is would be read from where it came."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  loss = jax.value_and_grad(lambda x: jnp.sum(jnp.cos(once(jnp.sin(x)))))
  assert jax.jit(loss).lower(jnp.ones(5)).as_text().count('call @') == 2


@pytest.mark.parametrize(
  'transform', [lambda f: f, jax.vmap, lambda f: lambda x: jax.jvp(f, (x,), (x,))]
)
def test_calls_within_are_inlined(transform, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  positive = transform(unfused(lambda x: jnp.where(x > 0, x, 0)))
  compiled = jax.jit(lambda x: positive(x + 1)).lower(jnp.ones(5)).compile()
  assert compiled.as_text().count(' call(') == 1


def test_nothing_is_called_but_in_a_program(monkeypatch):
  """Each call would be compiled anew, for nothing: what is not traced is not fused."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  seen = []
  unfused(lambda x: seen.append(x) or x)(x := jnp.ones(3))
  assert seen[0] is x


def test_blocks_are_computed_once_with_remat_too(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  images, results = jnp.full((1, 32, 32, 3), 0.3), []
  for remat in (False, True):
    model = create('cifar_resnet20', num_classes=3, remat=remat)
    variables = model.init(jax.random.key(0), images)

    def loss(params, model=model, variables=variables):
      outputs = model.apply({**variables, 'params': params}, images, train=False)
      return jnp.sum(outputs['logits'] ** 2)

    lowered = jax.jit(jax.grad(loss)).lower(variables['params'])
    assert 'inlineable = "false"' in lowered.as_text()
    results.append(lowered.compile()(variables['params']))
  chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)


def test_blocks_without_training_are_computed_once(monkeypatch):
  """Each of a ResNet's eight reads the one below, which is in memory then."""
  model = create('resnet18', num_classes=3)
  images = jnp.full((1, 32, 32, 3), 0.3)
  variables = model.init(jax.random.key(0), images)

  def calls(train):
    def apply(variables):
      outputs, _ = model.apply(variables, images, train=train, mutable=['batch_stats'])
      return outputs['logits']

    lowered = jax.jit(apply).lower(variables)
    lines = [line for line in lowered.as_text().splitlines() if '"false"' in line]
    return sum('call @' in line for line in lines), lowered.compile()(variables)

  fused, wanted = calls(train=False)
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  made, given = calls(train=False)
  # One is the stem's, of its windows, and three are the strided convolutions'.
  assert (fused, made) == (0, 12)
  assert calls(train=True)[0] == 4
  np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


ROOT = pathlib.Path(__file__).parents[2]
STEP = """
import jax, jax.numpy as jnp
from tljax.models import convolution, pooling, products

def loss(kernel, weights):
  y = convolution.convolve(jnp.ones((2, 12, 12, 3)), kernel, (1, 1), 'VALID')
  y = pooling.max_pool(y, 2, 2).reshape(2, -1)
  return jnp.sum(products.product(y, weights) ** 2)

arrays = jnp.ones((5, 5, 3, 4)), jnp.ones((64, 3))
print(jax.jit(jax.grad(loss, (0, 1))).lower(*arrays).as_text())
"""


@pytest.mark.parametrize('is_set', [False, True])
def test_xlas_convolutions_by_a_variable(is_set):
  """And neither calls nor factors in another order, which are a CPU's too."""
  environment = {**os.environ, 'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
  environment.pop('TLJAX_XLA_CONVOLUTIONS', None)
  environment |= {'TLJAX_XLA_CONVOLUTIONS': '1'} if is_set else {}
  command = [sys.executable, '-c', STEP]
  options = {'capture_output': True, 'env': environment, 'cwd': ROOT}
  done = subprocess.run(command, check=True, **options)
  program = done.stdout.decode()
  convolutions = program.count('stablehlo.convolution')
  calls = program.count('inlineable = "false"')
  assert (convolutions, calls > 0) == ((2, False) if is_set else (0, True))
