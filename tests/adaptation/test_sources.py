import jax.numpy as jnp
import numpy as np
import pytest

from tljax.adaptation import presets, sources
from tljax.errors import InputError


def test_by_domain_keeps_each_domains_order():
  domain = jnp.array([2, 0, 1, 1, 0, 2])
  tree = {'x': jnp.arange(12.0).reshape(6, 2), 'label': jnp.arange(6)}
  found = sources.by_domain(tree, domain, 3)
  np.testing.assert_array_equal(found['label'], [[1, 4], [2, 3], [0, 5]])
  np.testing.assert_array_equal(found['x'][..., 0], 2 * found['label'])
  whole = sources.by_domain(tree, None, 1)
  np.testing.assert_array_equal(whole['x'], tree['x'][None])


@pytest.mark.parametrize(('domain', 'domains'), [(None, 2), (np.zeros(6), 4)])
def test_what_holds_no_such_domains(domain, domains):
  with pytest.raises(InputError, match=f'hold {domains} domains alike'):
    sources.by_domain(jnp.zeros(6), domain, domains)


def test_mean_over_pairs():
  features = jnp.array([1.0, 2.0, 5.0])[:, None, None]

  def distance(x, y):
    return jnp.sum(jnp.abs(x - y))

  np.testing.assert_allclose(sources.mean_over_pairs(distance, features), 8 / 3)
  assert sources.mean_over_pairs(distance, features[:1]) == 0


def test_a_run_tells_how_many_there_are():
  assert presets.options('group_dro', 40, None, domains=3) == {'domains': 3}
  assert 'domains' not in presets.options('mcc', 40, None, domains=3)
