import jax.numpy as jnp
import pytest

from tljax.adaptation import cmd


@pytest.mark.parametrize(
  ('options', 'strength', 'last'),
  [({}, 1.0, 5), ({'strength': 3.0, 'moments': 2}, 3.0, 2)],
)
def test_one_step(check_step, options, strength, last):
  def term(source, target):
    x, y = (jnp.tanh(outputs['features']) for outputs in (source, target))
    gaps = [(x.mean(0) - y.mean(0)) / 2]
    for order in range(2, last + 1):
      moments = [((z - z.mean(0)[None]) ** order).mean(0) for z in (x, y)]
      gaps.append((moments[0] - moments[1]) / 2**order)
    return strength * sum(jnp.sqrt(jnp.sum(gap**2)) for gap in gaps)

  check_step(lambda *args: cmd.method(*args, **options), term)
