"""Run records to tables, and the run's report page: one HTML file."""

import base64
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from tljax import plots
from tljax.data.dataset import Dataset

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

  def figure(self, title: str, figure: 'plots.mpl.Figure', text: str = '') -> None:
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
    self.figure('The domains', plots.image_rows(images))
    labels = {domain: split.labels for domain, split in splits.items()}
    self.figure(
      'Features before and after adaptation',
      plots.tsne(features, labels, next(iter(splits.values())).classes),
      't-SNE of test images of both domains, first seed. Labels only colour it.',
    )

  def confusion(self, name: str, split: Dataset, predictions: np.ndarray) -> None:
    """Adds the confusion matrix of the strategy's predictions (N,)."""
    figure = plots.confusion(split.labels, predictions, split.classes)
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


def write_grid(
  folder: pathlib.Path, title: str, figures: Mapping[str, Mapping[str, dict]]
) -> Page:
  """Prints the table of methods by tasks, and returns its page; see `plots.grid`."""
  rows = grid_rows(figures)
  print_table(rows, title)
  text = 'Accuracy (%) on the test split: mean and standard deviation over seeds.'
  page = Page(folder / 'report.html', title, text)
  page.table('Accuracy', rows)
  page.figure('Accuracy', plots.grid(figures))
  return page
