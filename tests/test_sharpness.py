import jax
import numpy as np

from tljax.sharpness import sharpness_aware


def test_of_a_quadratic_by_hand():
  """The gradient of w'Aw/2 at w + rho Aw/|Aw| is A(w + rho Aw/|Aw|)."""
  matrix = np.float32([[2.0, 1.0], [1.0, 4.0]])
  w = np.float32([1.0, -1.0])

  def loss_fn(params, state, batch, rng):
    del state, rng
    return params @ batch @ params / 2, ('statistics', {})

  loss = sharpness_aware(loss_fn, 0.3)
  (value, aux), grad = jax.value_and_grad(loss, has_aux=True)(w, None, matrix, None)
  ascent = matrix @ w
  wanted = matrix @ (w + 0.3 * ascent / np.sqrt(ascent @ ascent))
  np.testing.assert_allclose(grad, wanted, rtol=1e-5)
  np.testing.assert_allclose(value, w @ matrix @ w / 2, rtol=1e-6)
  assert aux == ('statistics', {})
