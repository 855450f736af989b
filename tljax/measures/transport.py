"""Optimal transport between two sets of points: how far all must move.

Points are (N, D) and (M, D) float, and all weigh the same. The gradients of the costs
hold the plan, which is right where Sinkhorn's iterations have converged (Feydy et al.,
2019, section 3.1). ott-jax has far more; these few lines, for a batch on one device,
spare a dependency.
"""

import chex
import jax
import jax.numpy as jnp


def squared_distances(source: jax.Array, target: jax.Array) -> jax.Array:
  """Squared Euclidean distances of all pairs: (N, D) and (M, D) to (N, M)."""
  chex.assert_rank([source, target], 2)
  chex.assert_equal_shape_suffix([source, target], 1)
  return jnp.sum(jnp.square(source[:, None] - target[None]), -1)


def plan(cost: jax.Array, epsilon: float = 0.05, *, iterations: int = 100) -> jax.Array:
  """Entropy-regularised transport plan by Sinkhorn's iterations (Cuturi, 2013).

  It minimises sum P C + epsilon KL(P | 1 / (N M)) over the plans P whose rows sum to
  1 / N and columns to 1 / M; in logarithms, so that a small epsilon does not underflow.
  The columns' sums are exact after any iteration, the rows' in the limit.

  Args:
    cost: (N, M) float.
    epsilon: in the unit of the costs; the smaller, the more iterations it takes.
    iterations: of rows and columns.

  Returns:
    (N, M); a constant to the gradient.
  """
  scaled = jax.lax.stop_gradient(-cost / epsilon)

  def round_trip(_, potentials):
    _, columns = potentials
    rows = -jax.nn.logsumexp(scaled + columns, 1, keepdims=True)
    rows -= jnp.log(jnp.asarray(cost.shape[0], cost.dtype))
    columns = -jax.nn.logsumexp(scaled + rows, 0, keepdims=True)
    return rows, columns - jnp.log(jnp.asarray(cost.shape[1], cost.dtype))

  start = jnp.zeros_like(scaled[:, :1]), jnp.zeros_like(scaled[:1])
  rows, columns = jax.lax.fori_loop(0, iterations, round_trip, start)
  return jnp.exp(scaled + rows + columns)


def regularised_cost(
  source: jax.Array, target: jax.Array, epsilon: float = 0.05, *, iterations: int = 100
) -> jax.Array:
  """OT_epsilon of squared distances: sum P C + epsilon KL(P | 1 / (N M)), of `plan`."""
  cost = squared_distances(source, target)
  moved = plan(cost, epsilon, iterations=iterations)
  spread = jnp.sum(jax.scipy.special.xlogy(moved, moved * moved.size))
  return jnp.sum(moved * cost) + epsilon * spread


def sinkhorn_divergence(
  source: jax.Array, target: jax.Array, epsilon: float = 0.05, *, iterations: int = 100
) -> jax.Array:
  """Regularised cost without its bias: 0 where the sets are one (Genevay et al., 2018).

  OT(x, y) - (OT(x, x) + OT(y, y)) / 2, which goes from the squared Wasserstein
  distance (epsilon to 0) to the squared distance of the means (infinity).

  Args:
    source: (N, D) float.
    target: (M, D) float.
    epsilon: see `plan`; in the unit of squared distances.
    iterations: see `plan`.
  """

  def cost(x, y):
    return regularised_cost(x, y, epsilon, iterations=iterations)

  return cost(source, target) - (cost(source, source) + cost(target, target)) / 2


def sliced_wasserstein(
  source: jax.Array, target: jax.Array, key: jax.Array, *, directions: int = 128
) -> jax.Array:
  """Mean squared Wasserstein distance along random lines (Bonneel et al., 2015).

  On a line the optimal plan pairs the points in their order.

  Args:
    source: (N, D) float.
    target: (N, D) float, as many.
    key: draws the directions.
    directions: number of lines.
  """
  chex.assert_equal_shape([source, target])
  lines = jax.random.normal(key, (source.shape[1], directions), source.dtype)
  lines = lines / jnp.linalg.norm(lines, axis=0, keepdims=True)
  ordered = [jnp.sort(points @ lines, 0) for points in (source, target)]
  return jnp.mean(jnp.square(ordered[0] - ordered[1]))
