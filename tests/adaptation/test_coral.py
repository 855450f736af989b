import jax.numpy as jnp
import pytest

from tljax.adaptation import coral


@pytest.mark.parametrize(('options', 'strength'), [({}, 1.0), ({'strength': 3.0}, 3.0)])
def test_one_step(check_step, options, strength):
  def term(source, target):
    covariances = [jnp.cov(x['features'], rowvar=False) for x in (source, target)]
    gap = covariances[0] - covariances[1]
    return strength * jnp.sum(gap**2) / (4 * gap.shape[0] ** 2)

  check_step(lambda *args: coral.method(*args, **options), term)
