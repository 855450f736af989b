import jax.numpy as jnp
import pytest

from tljax.adaptation import jan
from tljax.measures import shift


@pytest.mark.parametrize(('linear', 'strength'), [(False, 1.0), (True, 0.5)])
def test_one_step(check_step, linear, strength):
  def term(source, target):
    def layers(outputs):
      odds = jnp.exp(outputs['logits'])
      return [outputs['features'], odds / jnp.sum(odds, 1, keepdims=True)]

    kernels = [shift.adaptive_gaussians(), shift.gaussian(0.92)]
    both = layers(source), layers(target)
    return strength * shift.joint_mmd(*both, kernels, linear=linear)

  options = {'linear': True, 'strength': 0.5} if linear else {}
  check_step(lambda *args: jan.method(*args, **options), term)
