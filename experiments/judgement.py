"""What a trained network makes of labelled images, on a page: figures and mistakes."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from experiments.trained import Trained
from tljax import plots, report
from tljax.data.dataset import Dataset
from tljax.measures import scores


def show(page: report.Page, title: str, network: Trained, dataset: Dataset) -> dict:
  """Adds the network's judgement to the page, and prints and returns its figures.

  They are a classification's, those of any number of classes an image with each class
  against its absence, or a regression's.
  """
  of = _targets
  if network.classes:
    of = _labels if network.is_multi_label else _classes
  return of(page, title, network, dataset)


def _classes(page, title, network, dataset):
  logits, labels = network.logits(dataset.images), dataset.labels
  figures = scores.classification(logits, labels)
  unknown = labels == len(dataset.classes) - 1
  if dataset.classes[-1] == 'unknown' and 0 < unknown.sum() < len(labels):
    figures |= scores.open_set(logits, labels)
  figures = _show_figures(page, title, figures)
  figures |= _show_by_class(page, logits, dataset)
  predicted, confidence = logits.argmax(-1), np.asarray(jax.nn.softmax(logits)).max(-1)
  page.confusion(network.name, dataset, predicted)
  page.figure('Calibration', plots.calibration(logits, labels))
  wrong = _worst(confidence * (predicted != labels))
  pairs = zip(labels[wrong], predicted[wrong], strict=True)
  titles = [f'{dataset.classes[a]},\nnot {dataset.classes[b]}' for a, b in pairs]
  _show_mistakes(page, network, dataset.images[wrong], predicted[wrong], titles)
  return figures


def _labels(page, title, network, dataset):
  logits, labels = network.logits(dataset.images), dataset.labels
  figures = _show_figures(page, title, scores.multi_label(logits, labels))
  figures |= _show_by_class(page, logits, dataset)
  doubt = np.abs(logits) * ((logits > 0) != labels)
  wrong, classes = _worst(doubt.max(-1)), doubt.argmax(-1)
  classes = classes[wrong]
  pairs = zip(labels[wrong, classes], classes, strict=True)
  said = ('said', 'missed')  # by whether the image has the class
  titles = [f'{dataset.classes[k]},\n{said[int(a)]}' for a, k in pairs]
  _show_mistakes(page, network, dataset.images[wrong], classes, titles)
  return figures


def _targets(page, title, network, dataset):
  outputs = network.logits(dataset.images)
  targets = dataset.labels.reshape(len(dataset), -1)
  figures = _show_figures(page, title, scores.regression(outputs, targets))
  page.figure('Predictions', plots.parity(targets, outputs))
  errors = np.abs(outputs - targets) / np.maximum(targets.std(0), 1e-12)
  wrong, columns = _worst(errors.max(-1)), errors.argmax(-1)
  columns = columns[wrong]
  pairs = zip(targets[wrong, columns], outputs[wrong, columns], strict=True)
  titles = [f'{a:.4g},\nnot {b:.4g}' for a, b in pairs]
  _show_mistakes(page, network, dataset.images[wrong], columns, titles)
  return figures


def _show_figures(
  page: report.Page, title: str, figures: Mapping[str, float]
) -> dict[str, float]:
  """Prints the figures, and adds them to the page."""
  rows = [
    {'measure': k.replace('_', ' '), 'value': f'{v:.4f}'} for k, v in figures.items()
  ]
  report.print_table(rows, title)
  page.table('Measures', rows)
  return dict(figures)


def _show_by_class(page: report.Page, logits: np.ndarray, dataset: Dataset) -> dict:
  """Adds each class' figures, and returns them."""
  found = scores.by_class(logits, dataset.labels, dataset.classes)
  rows = [
    {'class': k, **{n: f'{v:.4g}' for n, v in r.items()}} for k, r in found.items()
  ]
  page.table('Classes', rows)
  return {'classes': found}


def _worst(badness: np.ndarray) -> np.ndarray:
  """The ten examples with the most of it (N,), less those that have none."""
  order = np.argsort(-badness, kind='stable')[:10]
  return order[badness[order] > 0]


def _show_mistakes(
  page: report.Page,
  network: Trained,
  images: np.ndarray,
  outputs: np.ndarray,
  titles: Sequence[str],
) -> None:
  """Adds images, and where the evidence for the network's outputs (N,) was seen."""
  if len(images):
    maps = network.evidence(images, outputs)
    text = 'The worst, and by Grad-CAM where the network saw what it said.'
    page.figure('Mistakes', plots.gallery(images, titles, maps), text)
