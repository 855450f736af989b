"""Losses of predictions and labels: plain functions of arrays."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
  logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
  """Mean cross-entropy, in nats.

  Args:
    logits: (N, K) float.
    labels: (N,) integer, in [0, K), or (N, K) probabilities.
    label_smoothing: mass moved from the label to the uniform distribution over
      all K classes (Szegedy et al., 2016, section 7).
  """
  targets = probabilities(labels, logits.shape[-1]).astype(logits.dtype)
  targets = optax.smooth_labels(targets, label_smoothing)
  return jnp.mean(optax.softmax_cross_entropy(logits, targets))


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
