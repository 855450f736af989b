"""Logistic regression, multinomial or one against the rest, to its optimum."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import losses
from tljax.extraction.head import Head, linear

_SMALLEST = 1e-2  # of the features' scales, relative to the largest
_MEMORY = 30  # of gradients, for the estimate of the curvature


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  C: float = 1.0,
  tolerance: float = 1e-6,
  max_iterations: int = 1000,
) -> Head:
  """Minimises scikit-learn's objective: C times the summed losses, plus half the
  squared weights; biases are free.

  By L-BFGS (Liu and Nocedal, 1989) on scaled features, which changes the path and
  not the optimum.

  Args:
    features: (N, D) float32.
    labels: (N,) integer in [0, K), one class each; or (N, K) of 0 and 1, of which
      each example may have several: K binary regressions.
    num_classes: K. Of two classes the penalty is that of the difference of their
      weights, as in scikit-learn's binary regression.
    C: inverse strength of the penalty.
    tolerance: of the gradient's length; the objective over C * N has it.
    max_iterations: after which the last weights are taken.
  """
  chex.assert_rank(features, 2)
  chex.assert_shape(labels, (len(features),) + (num_classes,) * (labels.ndim - 1))
  std = features.std(0, dtype=np.float64)
  scale = np.float32(np.maximum(std, _SMALLEST * std.max() or 1.0))
  mean = np.float32(features.mean(0, dtype=np.float64))
  pairs = 2.0 if labels.ndim == 1 and num_classes == 2 else 1.0
  params = _minimize(
    jnp.asarray((features - mean) / scale),
    jnp.asarray(labels, labels.dtype if labels.ndim == 1 else jnp.float32),
    jnp.asarray(np.float32(pairs / (2 * C * len(features)) / scale**2)[:, None]),
    jnp.float32(tolerance),
    num_classes,
    max_iterations,
  )
  kernel = np.asarray(params['kernel'], np.float64) / scale[:, None]
  return linear(kernel, params['bias'] - mean @ kernel)


@functools.partial(jax.jit, static_argnames=('num_classes', 'max_iterations'))
def _minimize(features, labels, penalties, tolerance, num_classes, max_iterations):
  """The weights of the least mean loss plus penalties (D, 1) on squared weights."""

  def objective(params):
    logits = jnp.matmul(features, params['kernel'], precision='highest')
    logits += params['bias'][None]
    if labels.ndim == 1:
      loss = losses.cross_entropy(logits, labels)
    else:
      loss = losses.binary_cross_entropy(logits, labels)
    return loss + jnp.sum(penalties * jnp.square(params['kernel']))

  solver = optax.lbfgs(memory_size=_MEMORY)
  value_and_grad = optax.value_and_grad_from_state(objective)

  def step(carry):
    params, state, count = carry
    value, grad = value_and_grad(params, state=state)
    updates, state = solver.update(
      grad, state, params, value=value, grad=grad, value_fn=objective
    )
    return optax.apply_updates(params, updates), state, count + 1

  def goes_on(carry):
    _, state, count = carry
    length = optax.tree.norm(optax.tree.get(state, 'grad'))
    return (count == 0) | ((length > tolerance) & (count < max_iterations))

  start = {
    'kernel': jnp.zeros((features.shape[1], num_classes)),
    'bias': jnp.zeros(num_classes),
  }
  carry = (start, solver.init(start), jnp.int32(0))
  return jax.lax.while_loop(goes_on, step, carry)[0]
