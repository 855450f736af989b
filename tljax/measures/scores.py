"""Scores of predictions against labels, over a whole evaluation set, in NumPy."""

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray, *, top: int = 1) -> float:
  """Share of the labels (N,) among the `top` largest of the logits (N, K)."""
  order = np.argsort(-logits, axis=-1, kind='stable')[:, :top]
  return float(np.mean(np.any(order == labels[:, None], axis=-1)))
