"""Plots of run records, features, predictions and images, as matplotlib figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epy
from jax import nn

from tljax.progress import Bar

with epy.lazy_imports():  # they are slow to import
  import sklearn.calibration
  from matplotlib import figure as mpl
  from sklearn import manifold, metrics

_PANELS = 4  # in a row
_POINTS = 500  # of a domain in a map
_COLOURS = [f'C{i}' for i in range(10)]
_MARKERS = 'ox^sv'  # of domains


def curves(records: Mapping[str, Sequence[Sequence[dict]]], *keys: str) -> 'mpl.Figure':
  """Plots records over steps: a panel a key, a line a name, a band of one std.

  Args:
    records: by name, the records of each seed.
    keys: of the records, such as 'loss'.
  """
  figure = mpl.Figure(figsize=(5 * len(keys), 3.4))
  panels = figure.subplots(1, len(keys), squeeze=False)[0]
  for axes, key in zip(panels, keys, strict=True):
    for colour, (name, seeds) in zip(_COLOURS, records.items(), strict=False):
      values = np.array([[r[key] for r in seed] for seed in seeds])
      steps = [r['step'] for r in seeds[0]]
      mean, std = values.mean(0), values.std(0)
      axes.plot(steps, mean, color=colour, label=name.replace('_', ' '))
      axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel='step', ylabel=key.replace('_', ' '))
    axes.grid(alpha=0.3)
  panels[-1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
  figure.tight_layout()
  return figure


def bars(values: Mapping[str, Sequence[float]], label: str) -> 'mpl.Figure':
  """Plots one bar a name: the mean over seeds, and each seed as a dot."""
  figure = mpl.Figure(figsize=(7, 0.5 * len(values) + 1))
  axes = figure.subplots()
  for i, (colour, seeds) in enumerate(zip(_COLOURS, values.values(), strict=False)):
    axes.barh(i, np.mean(seeds), color=colour, alpha=0.6)
    axes.plot(seeds, [i] * len(seeds), 'k.', markersize=5)
  axes.set_yticks(range(len(values)), [name.replace('_', ' ') for name in values])
  axes.invert_yaxis()
  axes.set(xlabel=label, xlim=(0, 1))
  axes.grid(axis='x', alpha=0.3)
  return figure


def grid(figures: Mapping[str, Mapping[str, dict]]) -> 'mpl.Figure':
  """Plots methods by their mean over tasks; each task is a dot.

  Args:
    figures: by method, by task, from `summarise`.
  """
  methods, tasks = list(figures), list(next(iter(figures.values())))
  figure = mpl.Figure(figsize=(8, 0.35 * len(methods) + 1.4))
  axes = figure.subplots()
  means = [
    np.mean([task['accuracy_mean'] for task in figures[method].values()])
    for method in methods
  ]
  axes.barh(range(len(methods)), means, color='0.85')
  for i, task in enumerate(tasks):
    values = [figures[method][task]['accuracy_mean'] for method in methods]
    turn, colour = divmod(i, len(_COLOURS))
    style = {'color': _COLOURS[colour], 'ms': 4, 'label': task}
    axes.plot(values, range(len(methods)), 'osD^v'[turn % 5], **style)
  axes.set_yticks(range(len(methods)), methods)
  axes.invert_yaxis()
  axes.set(xlabel='accuracy; the bar is the mean over tasks', xlim=(0, 1))
  axes.grid(axis='x', alpha=0.3)
  axes.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


def parity(targets: np.ndarray, predictions: np.ndarray) -> 'mpl.Figure':
  """Plots predictions over targets, (N, T) each: a panel a target."""
  count = targets.shape[1]
  figure = mpl.Figure(figsize=(3.6 * count, 3.6))
  for i, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
    axes.plot(targets[:, i], predictions[:, i], '.', alpha=0.5)
    axes.axline((targets[0, i],) * 2, slope=1, color='grey', lw=1)
    axes.set(xlabel='target', ylabel='prediction')
    axes.grid(alpha=0.3)
  figure.tight_layout()
  return figure


def image_rows(rows: Mapping[str, np.ndarray]) -> 'mpl.Figure':
  """Shows images, a named row each: (N, H, W, 3) uint8."""
  count = max(len(images) for images in rows.values())
  figure = mpl.Figure(figsize=(0.8 * count, 0.95 * len(rows)))
  grid = figure.subplots(len(rows), count, squeeze=False)
  for line, (name, images) in zip(grid, rows.items(), strict=True):
    line[0].set_title(name, loc='left', fontsize=9)
    for axes, image in zip(line, images, strict=False):
      axes.imshow(image)
    for axes in line:
      axes.axis('off')
  return figure


def tsne(
  features: Mapping[str, Mapping[str, np.ndarray]],
  labels: Mapping[str, np.ndarray],
  classes: Sequence[str],
) -> 'mpl.Figure':
  """Draws t-SNE maps of features: a panel a title, colour by class, marker by domain.

  Args:
    features: by title, by domain, (N, D). A panel's domains are embedded together, of
      each 500 examples at most: that of all takes minutes, and shows no more.
    labels: by domain, (N,); they only colour the picture.
    classes: names, for the legend.
  """
  rng = np.random.default_rng(0)
  shown = {k: np.sort(rng.permutation(len(y))[:_POINTS]) for k, y in labels.items()}
  labels = {k: y[shown[k]] for k, y in labels.items()}
  height, columns = -(-len(features) // _PANELS), min(len(features), _PANELS)
  figure = mpl.Figure(figsize=(5.2 * columns, 4.6 * height))
  panels = figure.subplots(height, columns, squeeze=False).ravel()
  for axes in panels[len(features) :]:
    axes.set_axis_off()
  pairs = zip(panels, features.items(), strict=False)
  with Bar('t-SNE', 0, len(features), 'map') as bar:
    for done, (axes, (title, domains)) in enumerate(pairs, 1):
      _tsne_panel(axes, {k: x[shown[k]] for k, x in domains.items()}, labels)
      axes.set(title=title.replace('_', ' '), xticks=[], yticks=[])
      bar.update(done)
  last = panels[columns - 1]
  for colour, name in zip(_COLOURS, classes, strict=False):
    last.scatter([], [], color=colour, marker='s', label=name)
  last.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


def _tsne_panel(axes, domains, labels):
  rows = np.concatenate([*domains.values()])
  # scikit-learn's own where there are points enough.
  perplexity = min(30.0, len(rows) / 4)
  points = manifold.TSNE(perplexity=perplexity, random_state=0).fit_transform(rows)
  ends = np.cumsum([len(rows) for rows in domains.values()])
  parts = np.split(points, ends[:-1])
  for i, (domain, part) in enumerate(zip(domains, parts, strict=True)):
    marker = _MARKERS[i % len(_MARKERS)]
    colours = [_COLOURS[k % len(_COLOURS)] for k in labels[domain]]
    axes.scatter(*part.T, c=colours, marker=marker, s=18, alpha=0.75, linewidths=1)
    axes.scatter([], [], c='grey', marker=marker, label=domain)


def confusion(
  labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]
) -> 'mpl.Figure':
  """Draws the confusion matrix of labels (N,) and predicted labels (N,)."""
  display = metrics.ConfusionMatrixDisplay.from_predictions(
    labels,
    predictions,
    labels=range(len(classes)),
    display_labels=classes,
    cmap='Blues',
    colorbar=False,
    ax=mpl.Figure(figsize=(5.2, 5.2)).subplots(),
  )
  return display.figure_


def calibration(logits: np.ndarray, labels: np.ndarray) -> 'mpl.Figure':
  """Plots the share of right predictions over confidence: ten bins of equal count."""
  probabilities = np.asarray(nn.softmax(logits))
  right = probabilities.argmax(-1) == labels
  share, confidence = sklearn.calibration.calibration_curve(
    right, probabilities.max(-1), n_bins=10, strategy='quantile'
  )
  figure = mpl.Figure(figsize=(4.2, 3.8))
  axes = figure.subplots()
  axes.plot([0, 1], [0, 1], color='grey', lw=1, ls='--')
  axes.plot(confidence, share, 'o-', color=_COLOURS[0])
  axes.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1.02), ylim=(0, 1.02))
  axes.grid(alpha=0.3)
  return figure


def gallery(
  images: np.ndarray, titles: Sequence[str], maps: np.ndarray, columns: int = 5
) -> 'mpl.Figure':
  """Shows images (N, H, W, 3) uint8, and each again under a map (N, h, w) of heat."""
  lines = -(-len(images) // columns)
  figure = mpl.Figure(figsize=(2 * columns, 4.6 * lines))
  grid = figure.subplots(2 * lines, columns, squeeze=False)
  height, width = images.shape[1:3]
  for axes in grid.flat:
    axes.axis('off')
  for i, (image, title) in enumerate(zip(images, titles, strict=True)):
    line, column = divmod(i, columns)
    above, below = grid[2 * line : 2 * line + 2, column]
    above.set_title(title, fontsize=8)
    above.imshow(image)
    below.imshow(image)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    below.imshow(
      maps[i], cmap='inferno', alpha=0.6, extent=extent, interpolation='bilinear'
    )
  figure.tight_layout()
  return figure
