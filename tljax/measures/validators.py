"""Which checkpoint is best, without a target label: validators of predictions.

All are NumPy in, float out, and the larger the better, so that one `max` chooses;
`consensus` joins several. Logits are (N, K) and features (N, D), of the target unless
said otherwise; of a whole split, in evaluation mode. None is right always (Musgrave et
al., 2022, compare them).
"""

import numpy as np
from etils import epy

from tljax.measures import ranking, scores

with epy.lazy_imports():  # they are slow to import
  from scipy import special
  from sklearn import linear_model, model_selection, pipeline, preprocessing


def source_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
  """Share of the source's validation labels (N,) at the largest of its logits."""
  return scores.accuracy(logits, labels)


def negative_entropy(logits: np.ndarray) -> float:
  """Minus the mean entropy of the predictions, in nats (Morerio et al., 2018)."""
  return -float(np.mean(_entropies(special.softmax(logits, -1))))


def information(logits: np.ndarray) -> float:
  """InfoMax: mutual information of images and predictions, in nats.

  The entropy of the mean prediction - the mean entropy (Bridle et al., 1991): unlike
  the latter alone, it is not taken in by one class for all.
  """
  marginal = special.softmax(logits, -1).mean(0)
  return float(_entropies(marginal)) + negative_entropy(logits)


def nuclear_norm(logits: np.ndarray) -> float:
  """BNM: sum of the singular values of the predictions, over N (Cui et al., 2020)."""
  predictions = special.softmax(logits, -1)
  return float(np.linalg.norm(np.float64(predictions), 'nuc') / len(predictions))


def soft_neighborhood_density(
  logits: np.ndarray, temperature: float = 0.05, *, block: int = 1024
) -> float:
  """SND: how evenly each image is near others, in nats (Saito et al., 2021).

  The mean entropy of the softmax, over all other images, of the cosines of their
  softmax predictions / temperature.

  Args:
    logits: (N, K) float, N at least 2; time goes as N^2.
    temperature: tau.
    block: images that are compared with all at once, for the memory's sake.
  """
  predictions = special.softmax(logits, -1)
  unit = predictions / np.linalg.norm(predictions, axis=-1, keepdims=True)
  total = 0.0
  for start in range(0, len(unit), block):
    cosines = unit[start : start + block] @ unit.T
    rows = np.arange(len(cosines))
    cosines[rows, start + rows] = -np.inf  # an image is no neighbour of itself
    total += _entropies(special.softmax(cosines / temperature, -1)).sum()
  return float(total / len(unit))


def effective_rank(features: np.ndarray) -> float:
  """RankMe: exp of the entropy of the singular values' shares (Garrido et al., 2023).

  Between 1 and the rank of the features (N, D); 1 where all are 0.
  """
  values = np.linalg.svd(np.float64(features), compute_uv=False)
  return float(np.exp(_entropies(values / max(values.sum(), 1e-300))))


def density_ratio(
  source: np.ndarray, target: np.ndarray, points: np.ndarray
) -> np.ndarray:
  """How many times denser the target is than the source, at points (P, D).

  By a logistic regression that tells the domains apart: N p(target) / (M p(source))
  (You et al., 2019). As in the authors' code its penalty is what serves a held-out
  fifth best: many features tell a few points apart by chance. For `iwcv` and `dev`: the
  points are the source's validation features, the source's training features and the
  target's the domains.

  Args:
    source: (N, D) float.
    target: (M, D) float.
    points: (P, D) float.

  Returns:
    (P,) float.
  """
  regression = model_selection.GridSearchCV(
    linear_model.LogisticRegression(max_iter=1000),
    {'C': np.logspace(-6, 0, 7)},
    scoring='neg_log_loss',
    cv=model_selection.StratifiedShuffleSplit(1, test_size=0.2, random_state=0),
  )
  classifier = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
  domains = np.repeat([0, 1], [len(source), len(target)])
  classifier.fit(np.concatenate([source, target]), domains)
  most = np.log(np.finfo(np.float64).max) / 2  # products with losses are finite
  odds = np.exp(np.minimum(np.float64(classifier.decision_function(points)), most))
  return odds * len(source) / len(target)


def iwcv(losses: np.ndarray, weights: np.ndarray) -> float:
  """Importance-weighted validation: minus the mean of weight x loss.

  The target's risk as the source's losses show it, without bias where only the inputs
  shift (Sugiyama et al., 2007); negated, as a larger figure is better.

  Args:
    losses: (P,) of the source's validation examples, such as 0 or 1.
    weights: (P,) from `density_ratio`.
  """
  return -float(np.mean(weights * losses))


def dev(losses: np.ndarray, weights: np.ndarray) -> float:
  """Deep embedded validation: `iwcv` with less variance (You et al., 2019).

  The weights, whose mean is known to be 1, serve as a control variate. Where all are
  one it is `iwcv`.

  Args:
    losses: (P,) of the source's validation examples, such as 0 or 1.
    weights: (P,) from `density_ratio`.
  """
  weighted, largest = weights * losses, np.max(weights)
  # The slope has no scale; squares of the largest weights would be infinite.
  (_, shared), (_, spread) = np.cov(weighted / largest, weights / largest)
  slope = -shared / spread if np.ptp(weights) > 0 else 0.0
  return -float(np.mean(weighted) + slope * (np.mean(weights) - 1))


def consensus(said: np.ndarray) -> np.ndarray:
  """What validators say together: minus a training's mean rank, the best being 1.

  Ranks, as no two validators have the same unit.

  Args:
    said: (V, R) float, what V validators say of R trainings.

  Returns:
    (R,) float, from -R to -1.
  """
  return -ranking.mean_ranks(said)


def _entropies(probabilities):
  """In nats, over the last axis."""
  return special.entr(probabilities).sum(-1)
