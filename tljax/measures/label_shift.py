"""How often each class is in an unlabelled target, from a classifier of the source."""

import numpy as np
from scipy import optimize

from tljax.errors import InputError


def bbse(
  source_predictions: np.ndarray,
  source_labels: np.ndarray,
  target_predictions: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """Black box shift estimation of the target's class shares (Lipton et al., 2018).

  Where p(x | y) is the same in both domains, the share of each predicted class in the
  target is mu = C w, where C_ij is that of examples of class j predicted as i in the
  source and w_j = q(y = j) / p(y = j) (equation 3). The least squares solution without
  negative weights, held to 1 by a thousandth of C's norm (as in Azizzadenesheli et al.,
  2019), so that where C tells classes nothing apart, their shares are the source's.

  Args:
    source_predictions: (N,) integer in [0, K), of examples not trained on.
    source_labels: (N,) integer in [0, K).
    target_predictions: (M,) integer in [0, K).
    num_classes: K.

  Returns:
    (K,) float64, q(y), of sum 1; 0 for a class that the source lacks.

  Raises:
    InputError: there are no examples; or the predictions tell nothing.
  """
  if not len(source_labels) or not len(target_predictions):
    raise InputError(
      'the share of classes is estimated from examples, and there are none'
    )
  confusion = np.zeros((num_classes, num_classes))
  np.add.at(confusion, (source_predictions, source_labels), 1 / len(source_labels))
  predicted = np.bincount(target_predictions, minlength=num_classes)
  if not confusion[predicted > 0].any():
    raise InputError(
      'no class that the target is predicted as is predicted in the source'
    )
  hold = 1e-3 * np.linalg.norm(confusion, 2) * np.eye(num_classes)
  rows = np.concatenate([confusion, hold])
  wanted = np.concatenate([predicted / len(target_predictions), hold.sum(1)])
  weights, _ = optimize.nnls(rows, wanted)
  shares = weights * np.bincount(source_labels, minlength=num_classes)
  return shares / shares.sum()


def resample(labels: np.ndarray, shares: np.ndarray, seed: int = 0) -> np.ndarray:
  """Indices of the most examples, none of them twice, whose classes have these shares.

  Args:
    labels: (N,) integer in [0, K).
    shares: (K,) of sum 1, to within an example of each class; classes that there are no
      examples of are left out.
    seed: draws them.
  """
  counts = np.bincount(labels, minlength=len(shares))
  wanted = np.where(counts > 0, shares, 0)
  wanted = wanted / wanted.sum()
  # A class of less than an example's share does not decide how many there can be.
  ratio = np.divide(counts, wanted, out=np.full(len(counts), np.inf), where=wanted > 0)
  total = np.min(ratio[wanted * len(labels) >= 1 - 1e-9])
  rng, chosen = np.random.default_rng(seed), []
  for k, count in enumerate(np.round(total * wanted).astype(int)):
    chosen.append(rng.permutation(np.flatnonzero(labels == k))[:count])
  return np.sort(np.concatenate(chosen))
