"""Cycle self-training (Liu et al., 2021)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.5,
  entropy: float = 0.16,
  index: float = 1.9,
  ridge: float = 1e-3,
) -> Method:
  """Wants a classifier of the target's pseudo-labels to be right on the source.

  Minimises source cross-entropy + strength x (`cycle_loss` + `entropy` x the mean
  `tsallis_entropy` of the target's predictions) (algorithm 1). The inner classifier is
  a ridge regression, solved at once, as in the authors' code, which adds FixMatch, of
  strength 0.5 and threshold 0.97, and moves by adaptive SAM:
  `adaptation.create('cst+fixmatch', ...)`.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: a number or a schedule of the step; the default is that of the authors'
      code, whose commands have 2.
    entropy: weight of the entropy. The authors' code has 0.08 for the product with the
      strength, but of another entropy, several times as large: at temperature 2, and
      with the target's classes weighed alike.
    index: alpha, of the entropy.
    ridge: of the regression.
  """

  def loss(params, source, target, strength):
    del params
    cycle = cycle_loss(
      source['features'], source['label'], target['features'], target['logits'], ridge
    )
    unsure = jnp.mean(tsallis_entropy(target['logits'], index))
    return strength * (cycle + entropy * unsure)

  return align(model, optimizer, loss, strength=strength)


def cycle_loss(
  source: jax.Array,
  labels: jax.Array,
  target: jax.Array,
  logits: jax.Array,
  ridge: float = 1e-3,
) -> jax.Array:
  """Mean squared error on the source of a regression to the target's pseudo-labels.

  Features are scaled to length 1, labels are one-hot less their mean 1 / K. The
  gradient goes through the regression to all features; pseudo-labels are constants.

  Args:
    source: (N, D) features.
    labels: (N,) integer, or (N, K) probabilities, of the source.
    target: (M, D) features.
    logits: (M, K) of the target, whose largest are the pseudo-labels.
    ridge: added to the diagonal of the target's second moments, unscaled.
  """
  classes = logits.shape[-1]
  source, target = _normalise(source), _normalise(target)
  guesses = jax.nn.one_hot(jnp.argmax(logits, -1), classes, dtype=target.dtype)
  weights = _ridge_regression(target, guesses - 1 / classes, ridge)
  truth = losses.probabilities(labels, classes).astype(target.dtype) - 1 / classes
  return jnp.mean(jnp.square(source @ weights - truth))


def tsallis_entropy(logits: jax.Array, index: float = 1.9) -> jax.Array:
  """(1 - sum p^index) / (index - 1) of softmax predictions: (N, K) logits to (N,).

  Shannon's is the limit at 1; the larger, the milder on the unsure.
  """
  return (1 - jnp.sum(jax.nn.softmax(logits) ** index, -1)) / (index - 1)


def _ridge_regression(inputs, outputs, ridge):
  """Weights (D, K) of inputs (N, D) to outputs (N, K)."""
  count, dim = inputs.shape

  def solve(matrix, right):
    matrix = matrix + ridge * jnp.eye(len(matrix), dtype=matrix.dtype)
    return jax.scipy.linalg.solve(matrix, right, assume_a='pos')

  # Of the two equal forms, the smaller system: the other is all but singular.
  if dim < count:
    return solve(inputs.T @ inputs, inputs.T @ outputs)
  return inputs.T @ solve(inputs @ inputs.T, outputs)


def _normalise(features):
  return features / optax.safe_norm(features, 1e-6, axis=-1, keepdims=True)
