"""Run records to tables and plots, and the run's report page: one HTML file."""

import base64
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epy
from jax import nn
from rich.console import Console
from rich.table import Table

from tljax.data.dataset import Dataset

with epy.lazy_imports():  # they are slow to import
  import sklearn.calibration
  from matplotlib import figure as mpl
  from sklearn import manifold, metrics

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #f6f7f9;
  margin: 0 auto; max-width: 60rem; padding: 2rem 1rem; }
section { background: #fff; border: 1px solid #dde2e8; border-radius: 8px;
  margin: 1.2rem 0; padding: 1rem 1.4rem; overflow-x: auto; }
h1 { margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 .4rem; }
p { margin: .3rem 0 .8rem; color: #4a5866; } img { max-width: 100%; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e6eaee; }
th:first-child, td:first-child { text-align: left; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
"""
_PANELS = 4  # in a row
_COLOURS = [f'C{i}' for i in range(10)]

Rows = Sequence[Mapping[str, str]]  # one dict a row, all with the same keys
SCORES = {'os_star': 'OS*', 'unk': 'UNK', 'hos': 'HOS'}  # see `scores.open_set`


def summarise(
  accuracies: Sequence[float], seconds: Sequence[float], **others: Sequence[float]
) -> dict:
  """Figures of one strategy over its seeds; the deviation is the sample's (n - 1).

  `others` are further figures of each seed; but for `SCORES` it has their means alone.
  """
  columns, figures = {'accuracy': accuracies}, {}
  columns |= {name: values for name, values in others.items() if name in SCORES}
  for name, values in columns.items():
    figures[f'{name}_mean'], figures[f'{name}_std'] = _moments(values)
    figures[name] = [float(value) for value in values]
  rest = {'seconds': seconds, **others}
  rest = {k: float(np.mean(v)) for k, v in rest.items() if k not in SCORES}
  return {**figures, **rest}


def _moments(values):
  return float(np.mean(values)), float(np.std(values, ddof=min(1, len(values) - 1)))


def strategy_rows(strategies: Mapping[str, dict]) -> Rows:
  """Rows of the table of strategies: name, accuracy and scores in percent, seconds."""
  return [
    {
      'strategy': name.replace('_', ' '),
      'accuracy (%)': _spread(s['accuracy']),
      **{f'{heading} (%)': _spread(s[k]) for k, heading in SCORES.items() if k in s},
      'seconds': f'{s["seconds"]:.1f}',
    }
    for name, s in strategies.items()
  ]


# What a grid's table may show beside accuracies: heading, and how it is written.
_COLUMNS = {
  **{
    f'{name}_mean': (f'mean {heading}', lambda share: f'{100 * share:.1f}')
    for name, heading in SCORES.items()
  },
  'seconds': ('seconds', '{:.1f}'.format),
  'trained': ('trained', '{:,.0f}'.format),
  'memory': ('MiB a step', lambda size: f'{size / 2**20:.0f}'),
  'a_distance': ('A-distance', '{:.2f}'.format),
}


def grid_rows(figures: Mapping[str, Mapping[str, dict]]) -> Rows:
  """Rows of a table of methods by tasks, from `summarise`, their means first.

  The mean's deviation is that of the seeds' means over tasks. Where a method is the
  oracle, the gap to its mean is in percentage points.
  """
  everything = {key for tasks in figures.values() for f in tasks.values() for key in f}

  def gap(tasks):
    return _mean(figures['oracle'], 'accuracy_mean') - _mean(tasks, 'accuracy_mean')

  return [
    {
      'method': method,
      'mean': _spread(np.mean([f['accuracy'] for f in tasks.values()], 0)),
      **({'gap': f'{100 * gap(tasks):.1f}'} if 'oracle' in figures else {}),
      **{task: _spread(f['accuracy']) for task, f in tasks.items()},
      **{
        heading: write(_mean(tasks, key)) if _has(tasks, key) else ''
        for key, (heading, write) in _COLUMNS.items()
        if key in everything
      },
    }
    for method, tasks in figures.items()
  ]


def _spread(values):
  mean, deviation = _moments(values)
  return f'{100 * mean:.1f} ± {100 * deviation:.1f}'


def _has(tasks, key):
  return all(key in figures for figures in tasks.values())


def _mean(tasks, key):
  return np.mean([figures[key] for figures in tasks.values()])


def print_table(rows: Rows, title: str) -> None:
  """Prints the rows as a table on standard output."""
  table = Table(title=title, title_justify='left')
  for i, column in enumerate(rows[0]):
    table.add_column(column, justify='left' if i == 0 else 'right', no_wrap=True)
  for row in rows:
    table.add_row(*row.values())
  console = Console()
  if not console.is_terminal:  # nothing is cut off in a file
    console.width = 1000
  console.print(table)


class Page:
  """The report page: sections of text, tables and pictures in one file."""

  def __init__(self, path: pathlib.Path, title: str, summary: str):
    self._path = path
    self._title = html.escape(title)
    self._sections = [f'<h1>{self._title}</h1><p>{html.escape(summary)}</p>']

  def table(self, title: str, rows: Rows, text: str = '') -> None:
    """Adds a section with a table."""

    def line(tag, cells):
      return ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)

    body = ''.join(f'<tr>{line("td", row.values())}</tr>' for row in rows)
    self._add(title, text, f'<table><tr>{line("th", rows[0])}</tr>{body}</table>')

  def figure(self, title: str, figure: 'mpl.Figure', text: str = '') -> None:
    """Adds a section with a picture, stored inside the page."""
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=110, bbox_inches='tight')
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
    self._add(title, text, image)

  def _add(self, title, text, body):
    text = f'<p>{html.escape(text)}</p>' if text else ''
    self._sections.append(
      f'<section><h2>{html.escape(title)}</h2>{text}{body}</section>'
    )

  def domains(
    self,
    splits: Mapping[str, Dataset],
    features: Mapping[str, Mapping[str, np.ndarray]],
  ) -> None:
    """Adds images of each domain, and t-SNE maps of their features.

    Args:
      splits: by domain.
      features: by title of the map, by domain, (N, D).
    """
    images = {domain: split.images[:12] for domain, split in splits.items()}
    self.figure('The domains', image_rows(images))
    labels = {domain: split.labels for domain, split in splits.items()}
    self.figure(
      'Features before and after adaptation',
      tsne(features, labels, next(iter(splits.values())).classes),
      't-SNE of test images of both domains, first seed. Labels only colour it.',
    )

  def confusion(self, name: str, split: Dataset, predictions: np.ndarray) -> None:
    """Adds the confusion matrix of the strategy's predictions (N,)."""
    figure = confusion(split.labels, predictions, split.classes)
    self.figure(f'Confusion of {name}', figure, 'First seed.')

  def save(self) -> None:
    """Writes the page."""
    self._path.write_text(
      '<!doctype html><html lang="en"><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width">'
      f'<title>{self._title}</title><style>{_STYLE}</style>'
      f'{"".join(self._sections)}</html>\n',
      encoding='utf-8',
    )


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
  means = [_mean(figures[method], 'accuracy_mean') for method in methods]
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
    features: by title, by domain, (N, D). A panel's domains are embedded together.
    labels: by domain, (N,); they only colour the picture.
    classes: names, for the legend.
  """
  height, columns = -(-len(features) // _PANELS), min(len(features), _PANELS)
  figure = mpl.Figure(figsize=(5.2 * columns, 4.6 * height))
  panels = figure.subplots(height, columns, squeeze=False).ravel()
  for axes in panels[len(features) :]:
    axes.set_axis_off()
  for axes, (title, domains) in zip(panels, features.items(), strict=False):
    rows = np.concatenate([*domains.values()])
    # scikit-learn's own where there are points enough.
    perplexity = min(30.0, len(rows) / 4)
    points = manifold.TSNE(perplexity=perplexity, random_state=0).fit_transform(rows)
    ends = np.cumsum([len(rows) for rows in domains.values()])
    parts = np.split(points, ends[:-1])
    for marker, domain, part in zip('ox', domains, parts, strict=False):
      colours = [_COLOURS[k % len(_COLOURS)] for k in labels[domain]]
      axes.scatter(*part.T, c=colours, marker=marker, s=18, alpha=0.75, linewidths=1)
      axes.scatter([], [], c='grey', marker=marker, label=domain)
    axes.set(title=title.replace('_', ' '), xticks=[], yticks=[])
  last = panels[columns - 1]
  for colour, name in zip(_COLOURS, classes, strict=False):
    last.scatter([], [], color=colour, marker='s', label=name)
  last.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


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


def write_grid(
  folder: pathlib.Path, title: str, figures: Mapping[str, Mapping[str, dict]]
) -> Page:
  """Prints the table of methods by tasks, and returns its page; see `grid`."""
  rows = grid_rows(figures)
  print_table(rows, title)
  text = 'Accuracy (%) on the test split: mean and standard deviation over seeds.'
  page = Page(folder / 'report.html', title, text)
  page.table('Accuracy', rows)
  page.figure('Accuracy', grid(figures))
  return page
