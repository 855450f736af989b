"""The gap between two domains: every distance, how sure it is, and what it is made of.

Features are (N, D) of the source and (M, D) of the target, NumPy, on a common scale;
see `on_one_scale`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from tljax.errors import InputError
from tljax.measures import label_shift, shift, transport, two_sample

Distance = Callable[[np.ndarray, np.ndarray], float]
_LEAST = 8  # examples of a domain, or of a class in it
_TELLING = 20  # of a resampled domain: of fewer the MMD is mostly noise


def _jitted(distance) -> Distance:
  return lambda source, target: float(_run(distance, source, target))


_run = jax.jit(lambda distance, x, y: distance(x, y), static_argnums=0)


def _sliced(source, target):
  count, rng = min(len(source), len(target)), np.random.default_rng(0)
  halves = [points[rng.permutation(len(points))[:count]] for points in (source, target)]
  return transport.sliced_wasserstein(*halves, jax.random.key(0))


DISTANCES: dict[str, Distance] = {
  'A-distance': two_sample.proxy_a_distance,
  'MMD': _jitted(shift.mmd),
  'means': _jitted(shift.mean_distance),
  'CORAL': _jitted(shift.coral),
  'CMD': _jitted(shift.cmd),
  'moments': _jitted(shift.moment_distance),
  'HoMM': _jitted(shift.homm),
  'Frechet': two_sample.frechet_distance,
  'Sinkhorn': _jitted(transport.sinkhorn_divergence),
  'sliced Wasserstein': _jitted(_sliced),
}


class Interval(NamedTuple):
  """A distance, the ends of its 95% interval, and the mean distance of halves.

  Halves are further apart by chance than wholes, as halves of one domain are: the last
  compares with `itself`.
  """

  value: float
  low: float
  high: float
  halves: float


def on_one_scale(
  source: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features, scaled so that the source's variances sum to 1.

  So that figures do not depend on a network's scale, and Sinkhorn's epsilon is a share
  of the spread.

  Raises:
    InputError: a domain has fewer than 8 examples; or the source does not vary.
  """
  if min(len(source), len(target)) < _LEAST:
    raise InputError(
      f'domains of {len(source)} and {len(target)} examples; a gap is measured on '
      f'{_LEAST} or more of each'
    )
  scale = np.sqrt(np.float64(source).var(0).sum())
  if not scale > 0:
    raise InputError('all source examples have the same features; take other weights')
  return np.float32(source / scale), np.float32(target / scale)


def interval(
  distance: Distance,
  source: np.ndarray,
  target: np.ndarray,
  *,
  draws: int = 50,
  seed: int = 0,
) -> Interval:
  """A distance and its 95% interval, by a bootstrap of halves.

  A draw is half of each domain, none of it twice: its mean is spread as the whole set's
  (a delete-half jackknife; Shao and Wu, 1989), and no example is its own
  neighbour, or in both halves of a classifier, as in a draw with replacement. Halves
  have a bias of their own, so that only their deviation is taken, and the interval is a
  normal one. For what is no mean it is too wide: the A-distance's by a fifth, as its
  test halves are quarters, and the MMD's where there is no gap.

  Raises:
    InputError: there are fewer than 2 draws.
  """
  if draws < 2:
    raise InputError(f'--draws is {draws}; an interval takes at least 2')
  rng = np.random.default_rng(seed)

  def half(rows):
    return rows[rng.permutation(len(rows))[: len(rows) // 2]]

  value = distance(source, target)
  drawn = np.array([distance(half(source), half(target)) for _ in range(draws)])
  margin = float(stats.norm.ppf(0.975) * drawn.std(ddof=1))
  return Interval(value, value - margin, value + margin, float(drawn.mean()))


def itself(
  distance: Distance, source: np.ndarray, count: int | None = None, *, draws: int = 10
) -> float:
  """The mean distance of halves of one domain: what no gap looks like between halves.

  Args:
    distance: of two sets.
    source: (N, D) float.
    count: of the other domain, half of which the second set has; by default N. There
      are no more than half of N, so that beside a larger domain this is too far.
    draws: of two halves.
  """
  rng, middle = np.random.default_rng(0), len(source) // 2
  end = middle + min(middle, (count or len(source)) // 2)

  def halves():
    order = rng.permutation(len(source))
    return source[order[:middle]], source[order[middle:end]]

  return float(np.mean([distance(*halves()) for _ in range(draws)]))


def all_intervals(
  source: np.ndarray, target: np.ndarray, **options
) -> tuple[dict[str, Interval], dict[str, float]]:
  """Returns each of `DISTANCES` by `interval`, and of the source to `itself`."""
  found = {k: interval(of, source, target, **options) for k, of in DISTANCES.items()}
  return found, {k: itself(of, source, len(target)) for k, of in DISTANCES.items()}


def by_class(
  source: np.ndarray,
  source_labels: np.ndarray,
  target: np.ndarray,
  target_labels: np.ndarray,
  **options,
) -> dict[int, Interval]:
  """The MMD of each class that both domains have 8 examples of; see `interval`."""
  found = {}
  for k in np.unique(source_labels):
    parts = source[source_labels == k], target[target_labels == k]
    if min(map(len, parts)) >= _LEAST:
      found[int(k)] = interval(DISTANCES['MMD'], *parts, **options)
  return found


class Parts(NamedTuple):
  """The MMD of all, and what is left of it.

  Attributes:
    total: of the two sets.
    relabelled: where the source has the target's shares of classes; not a number where
      it has fewer than 20 examples then.
    restyled: where each feature has the same mean and deviation in both.
  """

  total: float
  relabelled: float
  restyled: float

  @property
  def label_share(self) -> float:
    """Of the MMD, what other shares of classes alone would explain, in [0, 1].

    Not a number where `relabelled` is none.
    """
    return self._share(self.relabelled)

  @property
  def style_share(self) -> float:
    """Of the MMD, what other means and deviations alone would explain, in [0, 1].

    Either kind of shift can pass for the other, so that both shares may be large.
    """
    return self._share(self.restyled)

  def _share(self, left):
    return float(np.clip(1 - left / self.total, 0, 1)) if self.total > 0 else 0.0


def decompose(
  source: np.ndarray,
  source_labels: np.ndarray,
  target: np.ndarray,
  shares: np.ndarray,
) -> Parts:
  """Says what of the MMD is label shift, or a shift of means and deviations.

  Args:
    source: (N, D) float.
    source_labels: (N,) integer.
    target: (M, D) float.
    shares: (K,) of the target's classes, such as of `label_shift.bbse`.
  """
  distance = DISTANCES['MMD']
  same = source[label_shift.resample(source_labels, shares)]
  relabelled = distance(same, target) if len(same) >= _TELLING else np.nan
  scale = source.std(0) / np.maximum(target.std(0), 1e-6)
  restyled = (target - target.mean(0)) * scale + source.mean(0)
  return Parts(distance(source, target), relabelled, distance(source, restyled))
