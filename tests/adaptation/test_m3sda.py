import jax.numpy as jnp
import pytest

from tljax.adaptation import m3sda


@pytest.mark.parametrize('domains', [1, 2])
def test_one_step(check_step, points_batch, two_sources, domains):
  """Also of a source that says no domain."""

  def term(source, target):
    groups = [source['features'][k::domains] for k in range(domains)]
    total = 0.0
    for order in (1, 2):
      means = [jnp.mean(x**order, 0) for x in (*groups, target['features'])]
      gaps = [jnp.sqrt(jnp.sum((m - means[-1]) ** 2)) for m in means[:-1]]
      total += sum(gaps) / domains
      if domains == 2:
        total += jnp.sqrt(jnp.sum((means[0] - means[1]) ** 2))
    return 0.5 * total

  def build(model, optimizer):
    return m3sda.method(model, optimizer, domains=domains)

  check_step(build, term, points_batch if domains == 1 else two_sources)
