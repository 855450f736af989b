"""Trainings of a grid of adaptations, and what is measured of each without labels."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import results
from tljax import report
from tljax.data.dataset import Dataset, judging_split
from tljax.extraction.features import extract
from tljax.inference import predictor
from tljax.measures import scores, two_sample, validators
from tljax.method import Method
from tljax.train import Trial, trial, trials_at_once


def features(model, trial: Trial, domains: Sequence[Mapping[str, Dataset]]) -> list:
  """Returns the network's features (N, D) of each domain's test split."""
  variables = trial.state.variables
  return [extract(model, variables, judging_split(splits).images) for splits in domains]


def judge(
  method: Method,
  trial: Trial,
  source: Mapping[str, Dataset],
  target: Mapping[str, Dataset],
  found: Sequence[np.ndarray],
) -> dict:
  """Returns the A-distance of the domains' `features`, and what the validators say.

  These see the target's training images, unlabelled, and the source's validation split.
  """
  logits = predictor(method)
  on_source = logits(trial.state, source['validation'].images)
  on_target = logits(trial.state, target['train'].images)
  said = {
    'source accuracy': scores.accuracy(on_source, source['validation'].labels),
    'entropy': validators.negative_entropy(on_target),
    'InfoMax': validators.information(on_target),
    'BNM': validators.nuclear_norm(on_target),
    'SND': validators.soft_neighborhood_density(on_target),
    'RankMe': validators.effective_rank(found[1]),
  }
  return {'a_distance': two_sample.proxy_a_distance(*found), 'validators': said}


ABOUT = (
  "Spearman's rank correlation of what a validator says, without labels, with the "
  'accuracy on the target, over all methods and seeds but the oracle. '
  "'consensus' is the mean rank of all validators."
)


def correlations(records: Mapping[str, Sequence[dict]]) -> report.Rows:
  """Returns rows of how well each validator ranks trainings, by task: see `ABOUT`."""
  columns = {}
  for task, trained in records.items():
    said = {
      name: [record['validators'][name] for record in trained]
      for name in trained[0]['validators']
    }
    said['consensus'] = np.mean([stats.rankdata(column) for column in said.values()], 0)
    truth = [record['accuracy'] for record in trained]
    columns[task] = {
      name: float(stats.spearmanr(column, truth).statistic)
      if np.ptp(column) and np.ptp(truth)
      else 0.0
      for name, column in said.items()
    }
  return [
    {
      'validator': name,
      **{task: f'{column[name]:.2f}' for task, column in columns.items()},
      'mean': f'{np.mean([column[name] for column in columns.values()]):.2f}',
    }
    for name in next(iter(columns.values()))
  ]


def keep(folder: pathlib.Path, name: str, found: Sequence[np.ndarray]) -> None:
  """Keeps a method's features of both domains, for `draw`."""
  folder.mkdir(exist_ok=True)
  np.savez_compressed(folder / f'{name}.npz', *found)


def draw(
  folder: pathlib.Path, names: Sequence[str], domains: Mapping[str, Mapping]
) -> Figure:
  """Draws t-SNE maps of the features that are kept of each method."""
  tests = {k: judging_split(splits) for k, splits in domains.items()}
  kept = {}
  for name in names:
    with np.load(folder / f'{name}.npz') as file:
      kept[name] = dict(zip(tests, file.values(), strict=True))
  labels = {k: test.labels for k, test in tests.items()}
  return report.tsne(kept, labels, next(iter(tests.values())).classes)


def train(
  method, streams, steps, target, start, **options
) -> Iterator[tuple[int, Trial]]:
  """Yields each seed's trial; on an accelerator one process trains those on features at
  once.

  A CPU is as busy with one seed, whose state its caches hold, so they take turns there:
  what is compiled serves all.
  """
  on_features = target['train'].images.ndim == 2
  alone = jax.process_count() == 1 and jax.default_backend() != 'cpu'
  if on_features and streams and alone:
    yield from trials_at_once(method, streams, steps, target).items()
  else:
    for seed, stream in streams.items():
      start_at = {'seed': seed, 'variables': start}
      yield seed, trial(method, stream, steps, target, **start_at, **options)


def conclude(run, tasks, methods, seeds) -> None:
  """Prints and writes what the whole grid says."""
  page = results.conclude_grid(run, tasks, methods, seeds, 'Adaptation')
  trained = [r for r in run.records() if ', oracle-' not in r['run']]
  by_task = {k: [r for r in trained if r['run'].startswith(f'{k}, ')] for k in tasks}
  rows = correlations(by_task)
  report.print_table(rows, 'Validators: rank correlation with the accuracy')
  page.table('Validators', rows, ABOUT)
  (source, *_), target = next(iter(tasks.values()))
  first = {'source': source, 'target': target}
  figure = draw(run.folder / 'features', methods, first)
  text = 't-SNE of test examples, first pair and seed; labels colour it.'
  page.figure('Features', figure, text)
  page.save()
