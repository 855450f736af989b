"""Which score ranks pretrained networks as fine-tuning does?

First fine-tune each, a run a network, then score what they were tuned on:

  python -m experiments.strategies --strategies plain --few 40 --seeds 5 --data ... \
    --model squeezenet1_1 --weights squeezenet1_1.safetensors --out runs/squeezenet
  python -m benchmarks.selection --runs runs/squeezenet runs/resnet18 --data ... \
    --cache runs/features --out runs/selection.json

Kendall's tau of each score with the accuracy, by set; the default is judged on each set
by what the others would choose.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import selection, strategies
from tljax import report
from tljax.data.dataset import Dataset
from tljax.extraction.features import extract
from tljax.measures import ranking, transferability
from tljax.run import Run

# By network, what was found of it: 'accuracy' and scores.
Found = Mapping[str, Mapping[str, float]]


def taus(
  sets: Mapping[str, Found], *, weighted: bool = False
) -> dict[str, dict[str, float]]:
  """Returns Kendall's tau by score and set, over the networks that have the score.

  A score that fewer than three networks of a set have is left out; see `ranking.tau`.
  """
  found = {}
  for task, networks in sets.items():
    names = {k for facts in networks.values() for k in facts} - {'accuracy'}
    for name in sorted(names):
      with_it = [facts for facts in networks.values() if name in facts]
      if len(with_it) > 2:
        columns = ([facts[k] for facts in with_it] for k in (name, 'accuracy'))
        found.setdefault(name, {})[task] = ranking.tau(*columns, weighted=weighted)
  return found


def behind(sets: Mapping[str, Found]) -> dict[str, dict[str, float]]:
  """By score and set, how far in accuracy the network it names is behind the best.

  In points, of the networks that have the score; scores are those of `taus`.
  """
  found = {}
  for name, tasks in taus(sets).items():
    found[name] = {}
    for task in tasks:
      have = [facts for facts in sets[task].values() if name in facts]
      best = max(facts['accuracy'] for facts in have)
      named = max(have, key=lambda facts: facts[name])
      found[name][task] = 100 * (best - named['accuracy'])
  return found


def held_out(
  found: Mapping[str, Mapping[str, float]], sets: Mapping[str, Found]
) -> dict[str, tuple[str, float]]:
  """By set, the score that the other sets would choose, and its figure on this one.

  `found` has figures by score and set, the larger the better. Only scores that every
  network has are chosen from.
  """
  common = set.intersection(
    *(set(facts) for by in sets.values() for facts in by.values())
  )
  chosen = {}
  for task in sets:
    means = {
      name: np.mean([by[other] for other in sets if other != task])
      for name, by in found.items()
      if name in common
    }
    best = max(means, key=means.get)
    chosen[task] = best, found[best][task]
  return chosen


def score(flags: strategies.Flags, training: Dataset, cache) -> dict[str, float]:
  """All scores of the network that the flags name, on a training set of images."""
  network = flags.build_model(2), flags.load_backbone()
  features = extract(*network, training.images, cache=cache)
  found = transferability.score(features, training.labels)
  return found | selection.of_predictions(flags, training)


def gather(folder: pathlib.Path, specs: Sequence[str], cache) -> dict[str, dict]:
  """By set, a network's mean accuracy over its seeds, and its mean scores."""
  config = json.loads((folder / 'config.json').read_text())
  names = {field.name for field in dataclasses.fields(strategies.Flags)}
  known = {k: v for k, v in config.items() if k in names}
  flags = strategies.Flags(out=folder, data=tuple(specs), **known)
  records = {record['run']: record for record in Run(folder).records()}
  found = {}
  for spec in specs:
    task = spec.rstrip('/').split('/')[-1]
    training, rows = flags.load_data(spec)['train'], []
    for name, record in records.items():
      if not (name.startswith(f'{task}, ') and ', plain-' in name):
        continue
      count = name.split(', ')[1]
      seed = int(name.rpartition('-')[2])
      few = training if count == 'all' else training.shots(int(count), seed)
      rows.append({'accuracy': record['accuracy'], **score(flags, few, cache)})
    if rows:
      found[task] = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
      found[task]['seeds'] = len(rows)
      print(f'{folder.name} on {task}: {len(rows)} seeds', flush=True)
  return found


def table(
  found: Mapping[str, Mapping[str, float]],
  **others: Mapping[str, Mapping[str, float]],
) -> report.Rows:
  """Rows of taus, the best mean first, and the means of other figures."""
  tasks = list(next(iter(found.values())))
  order = sorted(found, key=lambda name: -np.mean(list(found[name].values())))
  return [
    {
      'score': name,
      **{k: f'{found[name][k]:.2f}' if k in found[name] else '' for k in tasks},
      'mean': f'{np.mean(list(found[name].values())):.2f}',
      **{k: f'{np.mean(list(by[name].values())):.2f}' for k, by in others.items()},
    }
    for name in order
  ]


def judge(sets: Mapping[str, Found]) -> dict:
  """Prints the table, and what would be chosen; returns the figures."""
  found, lost = taus(sets), behind(sets)
  weighted = taus(sets, weighted=True)
  rows = table(found, weighted=weighted, behind=lost)
  report.print_table(rows, "Kendall's tau with the accuracy of fine-tuning")
  result = {'taus': found, 'weighted taus': weighted, 'behind': lost}
  less = {name: {k: -v for k, v in by.items()} for name, by in lost.items()}
  for criterion, figures in (('taus', found), ('behind', less)):
    result[f'held out by {criterion}'] = chosen = held_out(figures, sets)
    mean = np.mean([figure for _, figure in chosen.values()])
    print(f'chosen by {criterion} of the other sets:', chosen, f'mean {mean:.2f}')
  return result


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--runs', type=pathlib.Path, nargs='+', required=True)
  parser.add_argument('--data', nargs='+', required=True)
  parser.add_argument('--cache', type=pathlib.Path, required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  flags = parser.parse_args()
  if len(flags.runs) < 3:
    parser.error('--runs: give three networks or more; of two, a rank says nothing')
  networks = {run.name: gather(run, flags.data, flags.cache) for run in flags.runs}
  tasks = set.intersection(*map(set, networks.values()))
  order = [t for t in next(iter(networks.values())) if t in tasks]
  seeds = {n: {t: networks[n][t].pop('seeds') for t in order} for n in networks}
  sets = {task: {name: by[task] for name, by in networks.items()} for task in order}
  result = {'sets': sets, 'seeds': seeds, **judge(sets)}
  flags.out.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
  main()
