"""Trainings of a grid of adaptations, and what is measured of each without labels."""

import collections
import functools
import itertools
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import results
from tljax import plots, report
from tljax.data.dataset import Dataset, judging_split, whole
from tljax.errors import InputError
from tljax.extraction.features import extract, extract_splits
from tljax.inference import predictor
from tljax.measures import ranking, scores, two_sample, validators
from tljax.method import Method, Variables
from tljax.run import Run
from tljax.train import Trial, trial, trials_at_once

Splits = Mapping[str, Dataset]


def tasks(
  flags, backbone: Variables | None
) -> tuple[dict[str, tuple[list[Splits], Splits]], dict[str, dict]]:
  """Returns by task its sources and target, as flags of compare ask, and their hashes.

  Raises:
    InputError: they ask for what cannot be, such as two domains of one name.
  """
  if flags.frozen and backbone is None:
    raise InputError('--frozen: give the --weights of the network that is frozen')
  if flags.transductive and flags.target_shots:
    raise InputError('--transductive judges on all of the target; no --target-shots')
  domains = {
    pathlib.PurePath(spec.split(':')[-1]).stem: flags.load_data(spec, rows=True)
    for spec in flags.domains
  }
  if len(domains) < max(2, len(flags.domains)):
    raise InputError('--domains: name two or more, of different names')
  for name in flags.targets:
    if name not in domains:
      raise InputError(f'--targets: {name} is none of {", ".join(domains)}')
  prints = {
    name: [part.fingerprint() for part in splits.values()]
    for name, splits in domains.items()
  }
  if flags.frozen:
    if any(splits['train'].images.ndim == 2 for splits in domains.values()):
      raise InputError('--frozen: a domain has rows of numbers; leave the flag out')
    network = flags.build_model(2), backbone
    domains = {
      name: extract_splits(*network, splits, cache=flags.cache)
      for name, splits in domains.items()
    }
  if flags.transductive:
    splits = ('train', 'validation', 'test')
    domains = {k: dict.fromkeys(splits, whole(s)) for k, s in domains.items()}
  targets = flags.targets or domains
  if flags.several:
    pairs = {f'to {b}': ([a for a in domains if a != b], b) for b in targets}
  else:
    both = itertools.permutations(domains, 2)
    pairs = {f'{a} to {b}': ([a], b) for a, b in both if b in targets}
  found = {
    task: flags.match([domains[k] for k in sources], domains[target])
    for task, (sources, target) in pairs.items()
  }
  return found, {
    task: {k: prints[k] for k in (*sources, target)}
    for task, (sources, target) in pairs.items()
  }


def check_data(run: Run, prints: Mapping[str, dict]) -> None:
  """Raises InputError where the run holds trainings of a task on other data."""
  for record in run.records():
    task = record['run'].rpartition(', ')[0]
    if task in prints and record.get('data', prints[task]) != prints[task]:
      raise InputError(
        f'{run.folder} has {task} of other data already; choose another --out'
      )


def judge(
  method: Method,
  model,
  trial: Trial,
  sources: Sequence[Splits],
  target: Splits,
  held_out: bool,
) -> tuple[dict, list[np.ndarray]]:
  """Returns a trial's facts, and the network's features (N, D) of all test splits.

  The facts are the A-distance of the target's features from all sources', and what the
  validators say, who see the target's training images, unlabelled, and the sources'
  training and validation splits; those that judge by the latter only where it was
  `held_out` of training.
  """
  embed = functools.partial(extract, model, trial.state.variables)
  predict = functools.partial(predictor(method), trial.state)
  found = [embed(judging_split(splits).images) for splits in (*sources, target)]
  unlabelled = target['train'].images
  on_target, adapted = predict(unlabelled), embed(unlabelled)
  said = _by_source(embed, predict, sources, adapted) if held_out else {}
  said |= {
    'entropy': validators.negative_entropy(on_target),
    'InfoMax': validators.information(on_target),
    'BNM': validators.nuclear_norm(on_target),
    'SND': validators.soft_neighborhood_density(on_target),
    'RankMe': validators.effective_rank(adapted),
  }
  *others, mine = found
  distance = two_sample.proxy_a_distance(np.concatenate(others), mine)
  facts = {'a_distance': distance, 'validators': said, **stopped(trial.records)}
  return facts, found


def _by_source(embed, predict, sources, adapted):
  """What the validators say that judge by the sources' validation splits."""

  def of_all(function, parts):
    return np.concatenate([function(part) for part in parts])

  seen = [splits['train'].take(_some(splits['train'])) for splits in sources]
  held_out = [splits['validation'] for splits in sources]
  trained = of_all(lambda part: embed(part.images), seen)
  validated = of_all(lambda part: embed(part.images), held_out)
  logits = of_all(lambda part: predict(part.images), held_out)
  labels = of_all(lambda part: part.labels, held_out)
  weights = validators.density_ratio(trained, adapted[_some(adapted)], validated)
  wrong = np.float64(logits.argmax(-1) != labels)
  return {
    'source accuracy': scores.accuracy(logits, labels),
    'IWCV': validators.iwcv(wrong, weights),
    'DEV': validators.dev(wrong, weights),
  }


def _some(rows):
  """Indices of examples enough to tell two domains apart by."""
  return np.random.default_rng(0).permutation(len(rows))[:2000]


def stopped(records: Sequence[dict]) -> dict[str, float]:
  """What InfoMax, which chooses a step, gains on the target's validation split.

  Its accuracy there less that of the last step, which is what is judged; none of
  trainings that have no curve.
  """
  if 'validation_infomax' not in records[-1]:
    return {}
  best = max(records, key=lambda record: record['validation_infomax'])
  gain = best['validation_accuracy'] - records[-1]['validation_accuracy']
  return {'infomax_gain': gain}


ABOUT = (
  "Spearman's rank correlation of what a validator says, without labels, with the "
  'accuracy on the target, over all methods and seeds but the oracle. '
  "'consensus' is the mean rank of all validators."
)


STOPPED = (
  'Accuracy on the validation split of the target at the step that InfoMax chooses, '
  'less that at the last: mean over tasks and seeds.'
)


CHOSEN = (
  'Points of accuracy that the method which a validator puts first, of those of one '
  'seed and without labels, is behind the best of them: mean over seeds, with the '
  "method that is put first most often. The target's labels only judge the choice. The "
  'best is so by its test labels, noise and all, so that the points are rather too '
  "many. 'chance' is any method, source only among them and the oracle not."
)


def correlations(records: Mapping[str, Sequence[dict]]) -> dict[str, dict]:
  """By validator and task, how well it ranks trainings: see `ABOUT`."""
  found = {}
  for task, trained in records.items():
    said = _said(trained, _in_all(trained))
    truth = [record['accuracy'] for record in trained]
    for name, column in said.items():
      varies = np.ptp(column) and np.ptp(truth)
      rank = float(stats.spearmanr(column, truth).statistic) if varies else 0.0
      found.setdefault(name, {})[task] = rank
  return found


def choices(records: Mapping[str, Sequence[dict]]) -> dict[str, dict]:
  """By validator and task, which methods it chooses and what that costs: see `CHOSEN`.

  Returns:
    'methods': of each seed, its choice; none of 'chance'. 'regret': a share, mean over
    seeds.
  """
  found = {}
  for task, trained in records.items():
    by_seed, names = collections.defaultdict(list), _in_all(trained)
    for record in trained:
      by_seed[record['run'].rpartition('-')[2]].append(record)
    for same in by_seed.values():
      truth = [record['accuracy'] for record in same]
      for name, column in {**_said(same, names), 'chance': np.zeros(len(same))}.items():
        choice = found.setdefault(name, {}).setdefault(task, {'methods': []})
        choice.setdefault('regret', []).append(ranking.regret(column, truth))
        if name != 'chance':
          run = same[int(np.argmax(column))]['run']
          choice['methods'].append(run.removeprefix(f'{task}, ').rpartition('-')[0])
  for by_task in found.values():
    for choice in by_task.values():
      choice['regret'] = float(np.mean(choice['regret']))
  return found


def _in_all(trained):
  """Names of the validators that all trainings have."""
  first, *others = (record['validators'] for record in trained)
  return [name for name in first if all(name in said for said in others)]


def _said(trained, names):
  """What the validators say of trainings, and what they say together."""
  said = {name: [record['validators'][name] for record in trained] for name in names}
  return {**said, 'consensus': validators.consensus(list(said.values()))}


def choice_rows(chosen: Mapping[str, dict]) -> report.Rows:
  """Returns rows of `choices`, in points: see `CHOSEN`."""

  def cell(choice):
    often = [statistics.mode(choice['methods'])] if choice['methods'] else []
    return ' '.join([f'{100 * choice["regret"]:.1f}', *often]).replace('_', ' ')

  return [
    {
      'validator': name,
      'mean': f'{100 * np.mean([choice["regret"] for choice in by.values()]):.1f}',
      **{task: cell(choice) for task, choice in by.items()},
    }
    for name, by in chosen.items()
  ]


def gains(records: Sequence[dict], methods: Sequence[str]) -> report.Rows:
  """Returns rows of what InfoMax gains, by method: see `STOPPED`."""
  by_method = {
    name: [r['infomax_gain'] for r in records if f', {name}-' in r['run']]
    for name in methods
  }
  return [
    {'method': name, 'points': f'{100 * np.mean(values):+.1f}'}
    for name, values in by_method.items()
    if values  # none of the oracle
  ]


def keep(folder: pathlib.Path, name: str, found: Sequence[np.ndarray]) -> None:
  """Keeps a method's features of all domains, for `draw`."""
  folder.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(folder / f'{name}.npz', *found)


def draw(
  folder: pathlib.Path, names: Sequence[str], domains: Mapping[str, Mapping]
) -> Figure:
  """Draws t-SNE maps of the features that are kept of each method."""
  tests = {k: judging_split(splits) for k, splits in domains.items()}
  kept = {}
  for name in names:
    with np.load(folder / f'{name}.npz') as file:
      if len(file.files) != len(tests):
        raise InputError(
          f'{folder} has features of other domains; choose another --out'
        )
      kept[name] = dict(zip(tests, file.values(), strict=True))
  labels = {k: test.labels for k, test in tests.items()}
  return plots.tsne(kept, labels, next(iter(tests.values())).classes)


def train(
  method, streams, steps, target, start, *, name, **options
) -> Iterator[tuple[int, Trial]]:
  """Yields each seed's trial; on an accelerator one process trains those on features at
  once.

  A CPU is as busy with one seed, whose state its caches hold, so they take turns there:
  what is compiled serves all.
  """
  on_features = target['train'].images.ndim == 2
  alone = jax.process_count() == 1 and jax.default_backend() != 'cpu'
  if on_features and streams and alone:
    yield from trials_at_once(method, streams, steps, target, name=name).items()
  else:
    for seed, stream in streams.items():
      options |= {'seed': seed, 'variables': start, 'name': name}
      yield seed, trial(method, stream, steps, target, **options)


def conclude(run, tasks, methods, seeds) -> None:
  """Prints and writes what the whole grid says."""
  trained = [r for r in run.records() if ', oracle-' not in r['run']]
  by_task = {k: [r for r in trained if r['run'].startswith(f'{k}, ')] for k in tasks}
  said, chosen = correlations(by_task), choices(by_task)
  facts = {'validators': said, 'choices': chosen}
  page = results.conclude_grid(run, tasks, methods, seeds, 'Adaptation', **facts)
  rows = [
    {
      'validator': name,
      **{task: f'{value:.2f}' for task, value in by.items()},
      'mean': f'{np.mean(list(by.values())):.2f}',
    }
    for name, by in said.items()
  ]
  report.print_table(rows, 'Validators: rank correlation with the accuracy')
  page.table('Validators', rows, ABOUT)
  rows = choice_rows(chosen)
  report.print_table(rows, 'Chosen without labels: points behind the best')
  page.table('Chosen without labels', rows, CHOSEN)
  if all('infomax_gain' in record for record in trained):
    page.table('Stopped by InfoMax', gains(trained, methods), STOPPED)
  task, (sources, target) = next(iter(tasks.items()))
  folder = run.folder / 'features' / task
  # None are kept of a method that was trained when another pair was the first.
  kept = [name for name in methods if (folder / f'{name}.npz').exists()]
  if kept:
    names = ['source'] + [f'source {i}' for i in range(2, 1 + len(sources))]
    domains = dict(zip(names, sources, strict=True)) | {'target': target}
    figure = draw(folder, kept, domains)
    text = f't-SNE of test examples, {task}, first seed; labels colour it.'
    page.figure('Features', figure, text)
  page.save()
