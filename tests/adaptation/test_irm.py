import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tljax.adaptation import irm


def test_one_step(check_step, two_sources):
  """The slopes of a cross-entropy in its logits' factor, in closed form.

  Of either domain, whose examples take turns, the product of two halves' mean slopes.
  """
  labels = two_sources['source']['label']

  def term(source, target):
    del target
    z = source['logits']
    slopes = jnp.sum(nn.softmax(z) * z, -1) - z[np.arange(8), labels]
    quarters = [jnp.mean(slopes[i::4]) for i in range(4)]
    return 3.0 * (quarters[0] * quarters[2] + quarters[1] * quarters[3]) / 2

  def build(model, optimizer):
    return irm.method(model, optimizer, strength=3.0, domains=2)

  check_step(build, term, two_sources)
