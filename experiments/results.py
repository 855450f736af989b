"""What every script ends with: a table, result.json, and a report page with plots."""

import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from etils import epy

from tljax import plots, report
from tljax.data.dataset import Dataset
from tljax.measures import scores
from tljax.run import Run
from tljax.train import Trial

with epy.lazy_imports():  # it is slow to import
  from scipy import special


def conclude(
  run: Run,
  trials: Mapping[str, Sequence[Trial]],
  judged: Dataset,
  title: str,
  text: str,
  scores: Callable[[Trial], Mapping[str, float]] = lambda trial: {},
  **facts,
) -> report.Page:
  """Prints the table, writes result.json, and returns the report page so far.

  Args:
    run: the run's folder.
    trials: by strategy, a trial a seed.
    judged: what the trials were judged on. Where examples may have several classes the
      figures are the mean average precision, both means of F1, and how many are all
      right; of a regression R squared, the mean over targets, and the mean absolute
      error, in the targets' unit; else the accuracy.
    title: of the page and the table.
    text: one paragraph that says what the figures are.
    scores: those of a trial beside its accuracy.
    **facts: join result.json.
  """
  if judged.is_multi_label:
    return _conclude_multi_label(run, trials, judged.labels, title, text, **facts)
  if not judged.classes:
    return _conclude_regression(run, trials, judged.labels, title, text, **facts)
  strategies = {}
  for name, seeds in trials.items():
    found = [{'seconds': t.seconds, **scores(t)} for t in seeds]
    columns = {key: [figures[key] for figures in found] for key in found[0]}
    strategies[name] = report.summarise([t.accuracy for t in seeds], **columns)
  rows = report.strategy_rows(strategies)
  report.print_table(rows, title)
  if len(strategies) == 1:
    facts['accuracy'] = next(iter(strategies.values()))['accuracy_mean']
  run.write_result({**facts, 'strategies': strategies})
  print(f'wrote {run.folder / "report.html"}', file=sys.stderr)
  page = report.Page(run.folder / 'report.html', title, text)
  page.table('Results', rows, 'Mean and standard deviation over seeds; training time.')
  page.figure(
    'Accuracy',
    plots.bars({name: s['accuracy'] for name, s in strategies.items()}, 'accuracy'),
    'Bars are means, dots are seeds.',
  )
  records = {name: [t.records for t in seeds] for name, seeds in trials.items()}
  _add_curves(page, records, 'validation_accuracy')
  return page


def _conclude_regression(run, trials, targets, *about, **facts):
  measure = functools.partial(scores.regression, targets=targets)
  page = _conclude_by(run, trials, measure, ('r2', 'mae'), *about, **facts)
  for name, seeds in trials.items():
    first = seeds[0].logits
    plot = plots.parity(targets.reshape(first.shape), first)
    page.figure(f'Predictions of {name.replace("_", " ")}', plot, 'First seed.')
  return page


def _conclude_multi_label(run, trials, labels, *about, **facts):
  measure = functools.partial(scores.multi_label, labels=labels)
  metrics = ('mean_average_precision', 'macro_f1', 'micro_f1', 'exact')
  return _conclude_by(run, trials, measure, metrics, *about, **facts)


def _conclude_by(
  run: Run,
  trials: Mapping[str, Sequence[Trial]],
  measure: Callable[[np.ndarray], Mapping[str, float]],
  metrics: Sequence[str],
  title: str,
  text: str,
  **facts,
) -> report.Page:
  """As `conclude`, by metrics that `measure` finds of logits; the first has curves."""
  strategies, rows = {}, []
  for name, seeds in trials.items():
    found = [measure(t.logits) for t in seeds]
    figures = {metric: [f[metric] for f in found] for metric in metrics}
    ddof = min(1, len(found) - 1)
    spreads = {
      metric.replace('_', ' '): f'{np.mean(v):.3f} ± {np.std(v, ddof=ddof):.3f}'
      for metric, v in figures.items()
    }
    seconds = float(np.mean([t.seconds for t in seeds]))
    strategies[name] = {**figures, 'seconds': seconds}
    label = name.replace('_', ' ')
    rows.append({'strategy': label, **spreads, 'seconds': f'{seconds:.1f}'})
  report.print_table(rows, title)
  if len(strategies) == 1:
    facts |= {metric: float(np.mean(figures[metric])) for metric in metrics}
  run.write_result({**facts, 'strategies': strategies})
  print(f'wrote {run.folder / "report.html"}', file=sys.stderr)
  page = report.Page(run.folder / 'report.html', title, text)
  page.table('Results', rows, 'Mean and standard deviation over seeds; training time.')
  records = {name: [t.records for t in seeds] for name, seeds in trials.items()}
  _add_curves(page, records, f'validation_{metrics[0]}')
  return page


def _add_curves(page, records, metric):
  """Adds learning curves; what was fitted and not trained has none."""
  if all('loss' in seed[-1] for seeds in records.values() for seed in seeds):
    page.figure(
      'Learning curves',
      plots.curves(records, 'loss', metric),
      f'Training loss, and {metric.partition("_")[2]} on the validation split.',
    )


def conclude_grid(
  run: Run,
  tasks: Collection[str],
  methods: Collection[str],
  seeds: Collection[int],
  title: str,
  **facts,
) -> report.Page:
  """Prints the table of methods by tasks; writes result.json, returns the page so far.

  Each training left a record with its 'accuracy', 'seconds' and other numbers, named
  '{task}, {method}-{seed}'; `facts` join result.json.
  """
  figures, done = {}, {record['run']: record for record in run.records()}
  for method in methods:
    figures[method.replace('_', ' ')] = by_task = {}
    for task in tasks:
      records = [done[f'{task}, {method}-{seed}'] for seed in seeds]
      names = set.intersection(*map(set, records)) - {'run'}
      names = [k for k in sorted(names) if isinstance(records[0][k], int | float)]
      columns = {name: [r[name] for r in records] for name in names}
      by_task[task] = report.summarise(columns.pop('accuracy'), **columns)
  run.write_result({**figures, **facts})
  return report.write_grid(run.folder, f'{title}, {len(seeds)} seeds', figures)


def describe(logits: np.ndarray, network) -> dict:
  """Says what logits (K,) predict: a class and all probabilities, or targets (T,).

  Where images may have several classes these are joined, as in 'cat|dog'.
  """
  classes = network.classes
  if not classes:
    return {f'target {i}': value for i, value in enumerate(logits.tolist())}
  if network.is_multi_label:
    p = special.expit(logits)
    named = dict(zip(classes, p.tolist(), strict=True))
    likely = '|'.join(name for name, value in named.items() if value > 0.5)
    return {'classes': likely} | {f'p({name})': v for name, v in named.items()}
  p = special.softmax(logits)
  likeliest = {'class': classes[p.argmax()], 'confidence': float(p.max())}
  named = zip(classes, p.tolist(), strict=True)
  return likeliest | {f'p({name})': value for name, value in named}
