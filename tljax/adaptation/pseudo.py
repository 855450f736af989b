"""What self-training methods share: certain pseudo-labels, and views to learn on."""

import jax
import jax.numpy as jnp
import optax

from tljax.data import augment

_DROPPED = 0.2  # of features


def shift_and_cut(key: jax.Array, images: jax.Array) -> jax.Array:
  """The strong view that is drawn where a stream brings none of its own.

  Of images (N, H, W, C): shifted, and a square cut out, which is FixMatch's; neither
  makes another class of a photograph, a digit or a letter, as a mirror or a colour
  does. Of features (N, D): a fifth of each row set to 0.
  """
  if images.ndim == 2:
    kept = jax.random.bernoulli(key, 1 - _DROPPED, images.shape)
    return jnp.where(kept, images, 0)
  return _shift_and_cut(key, images)


_shift_and_cut = augment.compose(augment.shift(), augment.cutout())


def confident(logits: jax.Array, threshold: float) -> tuple[jax.Array, jax.Array]:
  """Pseudo-labels of logits (N, K), and which of them to believe.

  Returns:
    (N,) int32 classes, and (N,) float32: 1 where the class has a probability of
    `threshold` or more, else 0. Both are constants to the gradient.
  """
  predictions = jax.nn.softmax(jax.lax.stop_gradient(logits))
  sure = jnp.max(predictions, -1) >= threshold
  return jnp.argmax(predictions, -1), sure.astype(jnp.float32)


def confident_cross_entropy(
  logits: jax.Array, teacher: jax.Array, threshold: float
) -> jax.Array:
  """Cross-entropy of logits to a teacher's pseudo-labels, 0 where it is not sure.

  The mean over all N, sure or not (Sohn et al., 2020, equation 4). Logits are (N, K).
  """
  labels, sure = confident(teacher, threshold)
  each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(sure.astype(each.dtype) * each)
