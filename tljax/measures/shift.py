"""Distances between two domains' features, (N, D) and (M, D): how far they shifted.

All are differentiable, so that a method can close the gap it measures.
"""

import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import optax

# (squared distances, their mean over all pairs of both domains) -> similarities
Kernel = Callable[[jax.Array, jax.Array], jax.Array]


def adaptive_gaussians(
  multiples: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0),
) -> Kernel:
  """Returns a sum of Gaussian kernels whose widths follow the features' spread.

  Args:
    multiples: variances of the Gaussians, times the mean squared distance. The
      default is that of the published libraries' DAN and JAN.
  """

  def kernel(squared, mean):
    # Where all points are one, every multiple of nothing must not divide.
    variance = jnp.maximum(mean, jnp.finfo(mean.dtype).tiny ** 0.5)
    return sum(jnp.exp(-squared / (2 * multiple * variance)) for multiple in multiples)

  return kernel


def gaussian(sigma: float) -> Kernel:
  """Returns a Gaussian kernel of a fixed standard deviation."""
  return lambda squared, mean: jnp.exp(-squared / (2 * sigma**2))


def mmd(
  source: jax.Array,
  target: jax.Array,
  *,
  kernel: Kernel = adaptive_gaussians(),
  linear: bool = False,
) -> jax.Array:
  """Squared maximum mean discrepancy, estimated without bias (Gretton et al., 2012).

  It is 0 on average where the domains are alike, so an estimate can be negative. The
  kernels' widths are taken as constants by the gradient.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    kernel: of the squared distances.
    linear: compare each point with the next one only (Long et al., 2015, equation
      5, with overlapping pairs), in linear time; N and M must be equal.
  """
  return joint_mmd([source], [target], [kernel], linear=linear)


def joint_mmd(
  sources: Sequence[jax.Array],
  targets: Sequence[jax.Array],
  kernels: Sequence[Kernel],
  *,
  linear: bool = False,
) -> jax.Array:
  """Joint MMD of several layers: as `mmd`, by the product of the layers' kernels.

  (Long et al., 2017, equations 8 to 10.)

  Args:
    sources: a (N, D) float for each layer; D may differ.
    targets: a (M, D) float for each layer.
    kernels: one for each layer.
    linear: as in `mmd`.
  """
  for source, target in zip(sources, targets, strict=True):
    _check(source, target)
  scales = [
    _mean_squared_distance(*pair) for pair in zip(sources, targets, strict=True)
  ]
  distances = _paired if linear else _crossed

  def similarity(left, right):
    layers = zip(kernels, left, right, scales, strict=True)
    return math.prod(kernel(distances(x, y), scale) for kernel, x, y, scale in layers)

  if not linear:
    return (
      _off_diagonal_mean(similarity(sources, sources))
      + _off_diagonal_mean(similarity(targets, targets))
      - 2 * jnp.mean(similarity(sources, targets))
    )
  chex.assert_equal_shape([sources[0][:, 0], targets[0][:, 0]])
  next_sources, next_targets = (
    [jnp.roll(layer, -1, 0) for layer in layers] for layers in (sources, targets)
  )
  return jnp.mean(
    similarity(sources, next_sources)
    + similarity(targets, next_targets)
    - similarity(sources, next_targets)
    - similarity(next_sources, targets)
  )


def mean_distance(source: jax.Array, target: jax.Array) -> jax.Array:
  """Squared Euclidean distance of the domains' means: the MMD of a linear kernel.

  (Tzeng et al., 2014, equation 1, squared.) Shapes (N, D) and (M, D).
  """
  _check(source, target)
  return jnp.sum(jnp.square(jnp.mean(source, 0) - jnp.mean(target, 0)))


def coral(source: jax.Array, target: jax.Array) -> jax.Array:
  """CORAL: the squared distance of the domains' covariances, over 4 D^2.

  (Sun and Saenko, 2016, equations 1 to 3.) Shapes (N, D) and (M, D).
  """
  _check(source, target)
  gap = _covariance(source) - _covariance(target)
  return jnp.mean(jnp.square(gap)) / 4


def cmd(
  source: jax.Array, target: jax.Array, *, moments: int = 5, span: float = 1.0
) -> jax.Array:
  """Central moment discrepancy (Zellinger et al., 2017, equation 10).

  The distance of the means plus those of the second to the last central moments,
  coordinate by coordinate.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    moments: the highest order.
    span: b - a of the features' interval [a, b]: 1 for a sigmoid's, 2 for tanh's.
  """
  _check(source, target)
  means = [jnp.mean(x, 0, keepdims=True) for x in (source, target)]
  total = _norm(means[0] - means[1]) / span
  centred = [source - means[0], target - means[1]]
  for order in range(2, moments + 1):
    moment = [jnp.mean(x**order, 0) for x in centred]
    total += _norm(moment[0] - moment[1]) / span**order
  return total


def moment_distance(
  source: jax.Array, target: jax.Array, *, moments: int = 2
) -> jax.Array:
  """The distances of the means of x, x^2, ..., summed (Peng et al., 2019, equation 1).

  Powers are coordinate by coordinate, and not centred. Shapes (N, D) and (M, D).
  """
  _check(source, target)
  orders = range(1, moments + 1)
  return sum(_norm(jnp.mean(source**k, 0) - jnp.mean(target**k, 0)) for k in orders)


def homm(source: jax.Array, target: jax.Array, *, order: int = 3) -> jax.Array:
  """Higher-order moment matching (Chen et al., 2020, equation 4).

  The mean squared difference of the D^order products of coordinates, averaged over
  each domain; by inner products, without a tensor of that size. The authors' code takes
  each batch's mean away first.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    order: of the moments.
  """
  _check(source, target)

  def inner(x, y):
    return jnp.mean((_inner_products(x, y) / x.shape[-1]) ** order)

  return inner(source, source) + inner(target, target) - 2 * inner(source, target)


def _check(source, target):
  chex.assert_rank([source, target], 2)
  chex.assert_equal_shape_suffix([source, target], 1)


def _inner_products(x, y):
  """(N, M). Half-precision products would drown small distances."""
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _crossed(x, y):
  """(N, M) squared distances of every x and every y."""
  # Distances do not see the centre; rounding does.
  centre = jax.lax.stop_gradient(jnp.mean(x, 0, keepdims=True))
  x, y = x - centre, y - centre
  lengths = [jnp.sum(jnp.square(z), -1) for z in (x, y)]
  squared = lengths[0][:, None] + lengths[1][None, :] - 2 * _inner_products(x, y)
  return jnp.maximum(squared, 0)


def _paired(x, y):
  """(N,) squared distances of x and y, row by row."""
  return jnp.sum(jnp.square(x - y), -1)


def _mean_squared_distance(source, target):
  """Over all ordered pairs of both domains' points; a constant to the gradient."""
  points = jax.lax.stop_gradient(jnp.concatenate([source, target]))
  return 2 * jnp.sum(jnp.var(points, 0))


def _off_diagonal_mean(similarities):
  count = similarities.shape[0]
  others = 1 - jnp.eye(count, dtype=similarities.dtype)
  return jnp.sum(similarities * others) / (count * (count - 1))


def _covariance(x):
  centred = x - jnp.mean(x, 0, keepdims=True)
  return _inner_products(centred.T, centred.T) / (x.shape[0] - 1)


def _norm(x):
  """Euclidean length; its gradient at 0 is 0."""
  return optax.safe_norm(x, 0.0)
