"""Losses of predictions and labels: plain functions of arrays, means over examples.

For one by example take optax's: `softmax_cross_entropy`, `squared_error`, `huber_loss`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

# (predictions, labels) -> ()
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  label_smoothing: float = 0.0,
  class_weights: jax.Array | None = None,
) -> jax.Array:
  """Mean cross-entropy, in nats.

  Args:
    logits: (N, K) float.
    labels: (N,) integer, in [0, K), or (N, K) probabilities.
    label_smoothing: mass moved from the label to the uniform distribution over
      all K classes (Szegedy et al., 2016, section 7).
    class_weights: (K,) of examples by their class, for a weighted mean; such as N / (K
      x the class' count), which makes rare classes count as much as others.
  """
  targets = probabilities(labels, logits.shape[-1]).astype(logits.dtype)
  smooth = optax.smooth_labels(targets, label_smoothing)
  return _mean(optax.softmax_cross_entropy(logits, smooth), targets, class_weights)


def focal(
  logits: jax.Array,
  labels: jax.Array,
  *,
  gamma: float = 2.0,
  class_weights: jax.Array | None = None,
) -> jax.Array:
  """Cross-entropy whose easy examples weigh less: -(1 - p_t)^gamma log p_t.

  (Lin et al., 2017, equation 4, of a softmax; of several binary labels it is
  `optax.losses.sigmoid_focal_loss`.)

  Args:
    logits: (N, K) float.
    labels: (N,) integer, in [0, K), or (N, K) probabilities.
    gamma: at 0 it is the cross-entropy.
    class_weights: see `cross_entropy`.
  """
  targets = probabilities(labels, logits.shape[-1]).astype(logits.dtype)
  likely = jax.nn.log_softmax(logits)
  doubt = jnp.maximum(-jnp.expm1(likely), 1e-12)  # so that its power has a gradient
  return _mean(-jnp.sum(targets * doubt**gamma * likely, -1), targets, class_weights)


def _mean(values, targets, class_weights):
  """Mean of (N,) values, or weighted by (K,) weights of the targets (N, K).

  Where no example has a weight it is 0.
  """
  if class_weights is None:
    return jnp.mean(values)
  weights = targets @ jnp.asarray(class_weights, targets.dtype)
  total = jnp.sum(weights)
  return jnp.sum(weights * values) / jnp.where(total > 0, total, 1)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Of labels (N, K) of 0 and 1, any number an example; the sum over K, in nats."""
  parts = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
  return jnp.mean(jnp.sum(parts, -1))


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean squared error. Shapes (N, T) both; of one target (N,) will do."""
  targets = targets.reshape(predictions.shape)
  return jnp.mean(optax.squared_error(predictions, targets))


def huber(
  predictions: jax.Array, targets: jax.Array, *, delta: float = 1.0
) -> jax.Array:
  """Half the squared error, linear from an error of delta on; see `squared_error`."""
  targets = targets.reshape(predictions.shape)
  return jnp.mean(optax.huber_loss(predictions, targets, delta=delta))


def probabilities(labels: jax.Array, num_classes: int) -> jax.Array:
  """Returns (N, K) float32 of labels: (N,) integer, in [0, K), or such already."""
  return labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)


def domain_cross_entropy(
  source: jax.Array,
  target: jax.Array,
  source_weights: jax.Array | float = 1.0,
  target_weights: jax.Array | float = 1.0,
) -> jax.Array:
  """Binary cross-entropy of a domain discriminator, in nats.

  Args:
    source: (N,) its logits for source examples, whose label is 1.
    target: (M,) its logits for target examples, whose label is 0.
    source_weights: (N,) of the examples.
    target_weights: (M,) of the examples.

  Returns:
    The mean over the source plus the mean over the target, halved, so that the
    two domains weigh the same whatever N and M.
  """
  on_source = optax.sigmoid_binary_cross_entropy(source, jnp.ones_like(source))
  on_target = optax.sigmoid_binary_cross_entropy(target, jnp.zeros_like(target))
  means = jnp.mean(source_weights * on_source), jnp.mean(target_weights * on_target)
  return sum(means) / 2


def entropy(logits: jax.Array) -> jax.Array:
  """Entropies, in nats, of softmax predictions: (N, K) logits to (N,)."""
  return -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), -1)


def certainty_weights(logits: jax.Array) -> jax.Array:
  """Weights 1 + exp(-entropy) of examples, scaled to a mean of 1.

  (Long et al., 2018, equation 9.) Shapes (N, K) to (N,); constants to the gradient.
  """
  weights = 1 + jnp.exp(-entropy(jax.lax.stop_gradient(logits)))
  return weights / jnp.mean(weights)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of rows whose largest logit is at the label.

  Args:
    logits: (N, K) float.
    labels: (N,) integer, in [0, K), or (N, K) probabilities, whose largest counts.
  """
  if labels.ndim == 2:
    labels = jnp.argmax(labels, -1)
  return jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))
