import jax.numpy as jnp
import numpy as np

from tljax.adaptation import rejection
from tljax.method import Method


def test_what_is_not_sure_is_unknown():
  rng = np.random.default_rng(0)
  logits = np.float32(rng.normal(size=(200, 4)) * 2)
  logits[:, 3] += 100 * rng.normal(size=200)  # the method's own, which does not count
  method = Method(None, None, lambda state, images: jnp.asarray(logits)[images])
  got = rejection.reject(method).predict(None, np.arange(200))
  odds = np.exp(np.float64(logits[:, :3]))
  p = odds / odds.sum(1, keepdims=True)
  entropy = -np.sum(p * np.log(p), 1)
  wanted = np.where(entropy > np.log(3) / 2, 3, p.argmax(1))
  np.testing.assert_array_equal(np.argmax(got, 1), wanted)
  np.testing.assert_array_equal(got[:, :3], logits[:, :3])
  assert set(wanted) == {0, 1, 2, 3}
