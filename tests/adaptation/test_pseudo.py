import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.adaptation import pseudo

RNG = np.random.default_rng(0)
LOGITS, TEACHER = RNG.normal(size=(2, 6, 3)) * 2


def softmax(row):
  return np.exp(row) / np.sum(np.exp(row))


def test_confident_by_hand():
  logits = jnp.log(jnp.array([[0.5, 0.5, 1e-9], [0.25, 0.7, 0.05], [0.1, 0.1, 0.8]]))
  labels, sure = pseudo.confident(logits, 0.69)
  np.testing.assert_array_equal(labels, [0, 1, 2])
  np.testing.assert_array_equal(sure, [0, 1, 1])


@pytest.mark.parametrize(('threshold', 'taken'), [(0.0, 6), (0.75, 2), (1.1, 0)])
def test_confident_cross_entropy(check_slow, threshold, taken):
  probabilities = [softmax(row) for row in TEACHER]
  assert sum(p.max() >= threshold for p in probabilities) == taken

  def slow(logits):
    pairs = zip(logits, probabilities, strict=True)
    return (
      sum(-np.log(softmax(z)[p.argmax()]) for z, p in pairs if max(p) >= threshold) / 6
    )

  check_slow(
    lambda z: pseudo.confident_cross_entropy(z, jnp.asarray(TEACHER), threshold),
    slow,
    LOGITS,
  )


def test_the_teacher_is_a_constant():
  grad = jax.grad(pseudo.confident_cross_entropy, 1)(LOGITS, TEACHER, 0.5)
  np.testing.assert_array_equal(grad, 0)


def test_the_drawn_view_of_features_lacks_a_fifth():
  features = jax.random.uniform(jax.random.key(0), (50, 400), minval=1.0)
  view = pseudo.shift_and_cut(jax.random.key(1), features)
  dropped = np.asarray(view == 0)
  assert dropped.mean() == pytest.approx(0.2, abs=0.02)
  np.testing.assert_array_equal(view[~dropped], features[~dropped])


def test_the_drawn_view_keeps_shape_and_range():
  images = jax.random.uniform(jax.random.key(0), (3, 8, 6, 4))
  view = pseudo.shift_and_cut(jax.random.key(1), images)
  assert view.shape == images.shape and view.dtype == images.dtype
  assert view.min() >= 0 and view.max() <= 1
  assert not np.array_equal(view, images)
