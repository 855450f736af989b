import jax.numpy as jnp
import pytest

from tljax.adaptation import entropy


@pytest.mark.parametrize(('options', 'strength'), [({}, 0.1), ({'strength': 2.0}, 2.0)])
def test_one_step(check_step, options, strength):
  def term(source, target):
    del source
    odds = jnp.exp(target['logits'])
    p = odds / jnp.sum(odds, 1, keepdims=True)
    return -strength * jnp.sum(p * jnp.log(p)) / len(p)

  check_step(lambda *args: entropy.method(*args, **options), term)
