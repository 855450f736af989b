import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tljax.adaptation import vrex


def test_one_step(check_step, two_sources):
  labels = two_sources['source']['label']

  def term(source, target):
    del target
    likely = nn.log_softmax(source['logits'])[np.arange(8), labels]
    risks = [-jnp.mean(likely[domain::2]) for domain in (0, 1)]
    return 3.0 * ((risks[0] - risks[1]) / 2) ** 2

  def build(model, optimizer):
    return vrex.method(model, optimizer, strength=3.0, domains=2)

  check_step(build, term, two_sources)
