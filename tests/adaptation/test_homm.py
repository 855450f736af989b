import jax.numpy as jnp
import pytest

from tljax.adaptation import homm


@pytest.mark.parametrize(
  ('options', 'strength', 'letters'),
  [({}, 1.0, 'abc'), ({'strength': 3.0, 'order': 2}, 3.0, 'ab')],
)
def test_one_step(check_step, options, strength, letters):
  """With the tensors of moments written out."""

  def term(source, target):
    subscripts = ','.join(f'n{x}' for x in letters) + '->' + letters
    moments = [
      jnp.einsum(subscripts, *[x['features']] * len(letters)) / len(x['features'])
      for x in (source, target)
    ]
    return strength * jnp.mean((moments[0] - moments[1]) ** 2)

  check_step(lambda *args: homm.method(*args, **options), term)
