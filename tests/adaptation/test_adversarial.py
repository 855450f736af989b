import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.adaptation import adversarial
from tljax.adaptation.adversarial import reverse_gradient


@pytest.mark.parametrize('strength', [0.0, 0.3, 1.0, 2.5])
def test_reverse_gradient_against_finite_differences(strength):
  """Forward the identity, so differences see +gradient; backward times -strength."""
  weights = np.random.default_rng(0).normal(size=(3, 4))
  x = np.random.default_rng(1).normal(size=(3, 4))

  def f(x, module, reverse=lambda x: x):
    return module.sum(weights.astype(x.dtype) * module.sin(reverse(x)))

  differences = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[index] = 1e-6
    differences[index] = (f(x + step, np) - f(x - step, np)) / 2e-6

  def reverse(x):
    return reverse_gradient(x, strength)

  def reversed_f(x):
    return f(x, jnp, reverse)

  value, gradient = jax.value_and_grad(reversed_f)(jnp.float32(x))
  np.testing.assert_allclose(value, f(x, np), rtol=1e-5)
  np.testing.assert_allclose(gradient, -strength * differences, rtol=1e-5, atol=1e-7)


def test_reverse_gradient_takes_a_traced_strength_and_any_dtype():
  @jax.jit
  def gradient(x, strength):
    return jax.grad(lambda x: reverse_gradient(x, strength).sum())(x)

  for dtype in (jnp.float32, jnp.bfloat16):
    result = gradient(jnp.ones(2, dtype), jnp.float32(0.5))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(jnp.float32), [-0.5, -0.5])


@pytest.mark.parametrize(('gamma', 'peak'), [(10.0, 1.0), (5.0, 0.3)])
def test_ramp_is_the_papers(gamma, peak):
  steps = np.arange(0, 1001, 50)
  progress = steps.astype(np.float64) / 1000
  expected = peak * (2 / (1 + np.exp(-gamma * progress)) - 1)
  schedule = jax.jit(adversarial.ramp(1000, gamma=gamma, peak=peak))
  values = [schedule(jnp.int32(step)) for step in steps]
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


def test_ramp_defaults_to_ten_and_one():
  expected = 2 / (1 + np.exp(-10 * 0.25)) - 1
  np.testing.assert_allclose(adversarial.ramp(8)(2), expected, rtol=1e-6)


def test_discriminator_has_two_hidden_layers_and_one_logit():
  discriminator = adversarial.Discriminator(width=6)
  logits, variables = discriminator.init_with_output(
    jax.random.key(0), jnp.ones((5, 4))
  )
  shapes = [variables['params'][f'Dense_{i}']['kernel'].shape for i in range(3)]
  assert shapes == [(4, 6), (6, 6), (6, 1)]
  assert logits.shape == (5,)
