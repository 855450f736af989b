"""What open-set baselines share: the answer 'unknown', the last class."""

import math

import jax.numpy as jnp

from tljax import losses
from tljax.method import Method


def reject(method: Method) -> Method:
  """Returns the method, whose prediction is 'unknown' where it is not sure.

  That is where the entropy over the other classes is above half of the largest there is
  (the threshold of DANCE, Saito et al., 2020); its own logit of 'unknown' is left out.
  """

  def predict(state, images):
    known = method.predict(state, images)[:, :-1]
    doubt = losses.entropy(known) - math.log(known.shape[-1]) / 2
    unknown = jnp.max(known, -1) + doubt
    return jnp.concatenate([known, unknown[:, None]], -1)

  return Method(method.init, method.step, predict)
