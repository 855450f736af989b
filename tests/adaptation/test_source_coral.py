import jax.numpy as jnp

from tljax.adaptation import source_coral


def test_one_step(check_step, two_sources):
  def term(source, target):
    del target
    covariances = [jnp.cov(source['features'][k::2], rowvar=False) for k in (0, 1)]
    return 3.0 * jnp.sum((covariances[0] - covariances[1]) ** 2) / (4 * 6**2)

  def build(model, optimizer):
    return source_coral.method(model, optimizer, strength=3.0, domains=2)

  check_step(build, term, two_sources)
