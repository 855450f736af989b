"""How well one list of figures ranks what another does, and who leads in several."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epy

with epy.lazy_imports():  # it is slow to import
  from scipy import stats


def tau(
  scores: Sequence[float], accuracies: Sequence[float], *, weighted: bool = False
) -> float:
  """Kendall's rank correlation, tau-b; 0 where either is the same for all.

  `weighted` has pairs of better ranks weigh more (Vigna, 2015), as You et al. (2021).
  """
  if not (np.ptp(scores) and np.ptp(accuracies)):
    return 0.0
  of = stats.weightedtau if weighted else stats.kendalltau
  return float(of(scores, accuracies).statistic)


def regret(scores: Sequence[float], accuracies: Sequence[float]) -> float:
  """Returns how far what the scores put first is behind the most accurate.

  Of several that are first, the mean. It is never below 0; of scores that are all the
  same it is what choosing at random costs.
  """
  scores, accuracies = np.asarray(scores), np.asarray(accuracies)
  first = accuracies[scores == scores.max()]
  return float(accuracies.max() - first.mean())


def consensus(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Returns each candidate's mean rank, 1 the best, over the scores that all have.

  Args:
    scores: by candidate and score, the larger the better.
  """
  common = sorted(set.intersection(*map(set, scores.values())))
  columns = np.array([[row[name] for row in scores.values()] for name in common])
  return dict(zip(scores, mean_ranks(columns).tolist(), strict=True))


def mean_ranks(scores: np.ndarray) -> np.ndarray:
  """Returns each candidate's mean rank (R,), 1 the best; ties share theirs.

  It is the order of Borda's count (Borda, 1781).

  Args:
    scores: (S, R), of S scores of R candidates, the larger the better.
  """
  return stats.rankdata(-np.asarray(scores), axis=1).mean(0)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
  """Returns the candidates that no other beats in both, the cheapest first.

  Args:
    points: by candidate, (cost, value): the less and the more the better.
  """
  order = sorted(points, key=lambda name: (points[name][0], -points[name][1]))
  return [
    name
    for name in order
    if not any(
      other != points[name]
      and other[0] <= points[name][0]
      and other[1] >= points[name][1]
      for other in points.values()
    )
  ]
