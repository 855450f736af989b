"""Scores of predictions against labels, over a whole evaluation set, in NumPy."""

from collections.abc import Sequence

import numpy as np
from etils import epy

with epy.lazy_imports():  # they are slow to import
  from scipy import special
  from sklearn import metrics


def metric(labels: np.ndarray) -> str:
  """What says how good outputs are, by their labels' kind; see `data.dataset.Dataset`.

  'accuracy', 'mean_average_precision' where an example may have several classes, 'r2'
  of a regression.
  """
  if labels.dtype == bool:
    return 'mean_average_precision'
  return 'accuracy' if np.issubdtype(labels.dtype, np.integer) else 'r2'


def score(outputs: np.ndarray, labels: np.ndarray) -> float:
  """Returns the `metric` of outputs (N, K) and labels, the larger the better."""
  name = metric(labels)
  if name == 'accuracy':
    return accuracy(outputs, labels)
  return (multi_label if labels.dtype == bool else regression)(outputs, labels)[name]


def accuracy(logits: np.ndarray, labels: np.ndarray, *, top: int = 1) -> float:
  """Share of the labels (N,) among the `top` largest of the logits (N, K)."""
  order = np.argsort(-logits, axis=-1, kind='stable')[:, :top]
  return float(np.mean(np.any(order == labels[:, None], axis=-1)))


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Returns the scores of a classifier by name.

  They are accuracy, with more than five classes also that of the five likeliest, the
  mean of the classes' F1, which is 0 of those not there, the mean area under the curves
  of each class against the rest where all classes are there, the cross-entropy in nats,
  and the calibration error.

  Args:
    logits: (N, K) float.
    labels: (N,) integer in [0, K).
  """
  count = logits.shape[-1]
  probabilities = special.softmax(np.float64(logits), -1)
  figures = {'accuracy': accuracy(logits, labels)}
  if count > 5:
    figures['top_5_accuracy'] = accuracy(logits, labels, top=5)
  predicted, every = logits.argmax(-1), range(count)
  figures['macro_f1'] = metrics.f1_score(
    labels, predicted, labels=every, average='macro', zero_division=0
  )
  if len(np.unique(labels)) == count:
    likelihood = probabilities if count > 2 else probabilities[:, 1]
    figures['auroc'] = metrics.roc_auc_score(labels, likelihood, multi_class='ovr')
  log_likelihood = special.log_softmax(np.float64(logits), -1)
  figures['cross_entropy'] = -np.mean(log_likelihood[np.arange(len(labels)), labels])
  figures['calibration_error'] = calibration_error(probabilities, labels)
  return {name: float(value) for name, value in figures.items()}


def open_set(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Returns the scores of open-set recognition, of which the last class is 'unknown'.

  They are OS*, the mean of the other classes' recalls; UNK, that of 'unknown'; and HOS,
  the harmonic mean of both (Bucci et al., 2020).

  Args:
    logits: (N, K + 1) float.
    labels: (N,) integer in [0, K], with examples of K and of some other class.
  """
  predicted, unknown = logits.argmax(-1), logits.shape[-1] - 1
  recalls = {k: float(np.mean(predicted[labels == k] == k)) for k in np.unique(labels)}
  unk = recalls.pop(unknown)
  known = float(np.mean([*recalls.values()]))
  hos = 2 * known * unk / (known + unk) if known + unk else 0.0
  return {'os_star': known, 'unk': unk, 'hos': hos}


def by_class(
  logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, float]]:
  """Returns each class' precision, recall, F1 and number of examples.

  Args:
    logits: (N, K) float.
    labels: (N,) integer; or (N, K) bool, of examples with any number of classes, of
      which those with a probability of one half and more are predicted.
    classes: K names.
  """
  predicted = logits > 0 if labels.ndim > 1 else logits.argmax(-1)
  columns = metrics.precision_recall_fscore_support(
    labels, predicted, labels=_columns(labels, len(classes)), zero_division=0
  )
  names = ('precision', 'recall', 'f1', 'examples')
  return {
    name: dict(zip(names, map(float, row), strict=True))
    for name, row in zip(classes, zip(*columns, strict=True), strict=True)
  }


def _columns(labels, count):
  """What scikit-learn calls the classes: of a lone one its presence is 1."""
  return [1] if labels.ndim > 1 and count == 1 else range(count)


def calibration_error(
  probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
  """Expected calibration error (Guo et al., 2017, equation 3), bins of equal width.

  The mean, over examples, of the distance between accuracy and mean confidence in
  the example's bin of confidence. Probabilities are (N, K), labels (N,).
  """
  confidence = probabilities.max(-1)
  right = probabilities.argmax(-1) == labels
  # The first bin with 0, each with its upper end.
  index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  gaps = np.bincount(index, right - confidence, minlength=bins)
  return float(np.abs(gaps).sum() / len(labels))


def multi_label(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Returns the scores of a classifier whose examples have any number of classes.

  They are the mean, over the classes that any example has (NaN where none has any), of
  average precision, the area under its steps of precision by recall; F1 at a
  probability of one half, the mean over classes and over all labels; and 'exact', the
  share of examples whose classes are all right.

  Args:
    logits: (N, K) float, of each class against its absence.
    labels: (N, K) bool.
  """
  there, predicted = labels.any(0), logits > 0
  precision = np.nan
  if there.any():
    precision = metrics.average_precision_score(labels[:, there], logits[:, there])
  figures, columns = {'mean_average_precision': precision}, _columns(labels, len(there))
  for average in ('macro', 'micro'):
    figures[f'{average}_f1'] = metrics.f1_score(
      labels, predicted, labels=columns, average=average, zero_division=0
    )
  figures['exact'] = np.mean(np.all(predicted == labels, -1))
  return {name: float(value) for name, value in figures.items()}


def regression(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
  """Returns the scores of a regression: 'mae', 'rmse', and 'r2', means over targets.

  Shapes (N, T) both, or (N,) of one target. A target that does not vary has an r2 of 0,
  or of 1 where it is met.
  """
  predictions = predictions.reshape(targets.shape)
  figures = {
    'mae': metrics.mean_absolute_error(targets, predictions),
    'rmse': metrics.root_mean_squared_error(targets, predictions),
    'r2': metrics.r2_score(targets, predictions),
  }
  return {name: float(value) for name, value in figures.items()}
