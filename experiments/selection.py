"""What is measured of each candidate network on a target set, and what it says."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import tasks
from tljax import models, report, weights
from tljax.data.augment import to_float
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.extraction.features import extract_splits
from tljax.finetuning import strategy, summary
from tljax.inference import in_batches
from tljax.measures import ranking, source_predictions, transferability

DEFAULT = 'LogME'  # the score that ranks; see README.md here
ESTIMATE = 'linear probe'  # the score that is an accuracy
_TIMED = 3  # steps


class Candidate(NamedTuple):
  """What is known of a network before it is tuned.

  Attributes:
    scores: by name, the larger the better.
    costs: 'parameters'; 'multiply-adds', of an image; 'step', seconds of a step that
      tunes everything; 'memory', its bytes.
    advice: how much of it to tune.
  """

  scores: dict[str, float]
  costs: dict[str, float]
  advice: strategy.Strategy


def parse(names: Sequence[str]) -> dict[str, tuple[str, str]]:
  """Returns (architecture, weights) by the candidate's name, of 'MODEL=WEIGHTS'.

  Raises:
    InputError: one is of another form, or no architecture; or there is one twice.
  """
  found = {}
  for text in names:
    model, equals, source = text.partition('=')
    if not equals or not source:
      raise InputError(
        f'--models {text!r}: say MODEL=WEIGHTS, a file or a tag of experiments.models'
      )
    models.spec(model)  # which knows its names
    name = model if model not in found else f'{model} {pathlib.Path(source).stem}'
    if name in found:
      raise InputError(f'--models {text!r} is there twice')
    found[name] = model, source
  return found


def measure(flags, splits: Mapping[str, Dataset]) -> tuple[Candidate, dict]:
  """Measures the network that the flags name; returns its features too.

  Args:
    flags: of `experiments.select`, with `model` and `weights`.
    splits: of the target's images; labels of the training split alone are used.
  """
  training, backbone = splits['train'], flags.load_backbone()
  count = len(training.classes)
  features = extract_splits(
    flags.build_model(count), backbone, {'train': training}, cache=flags.cache
  )
  size = min(flags.batch_size, len(training))
  costs = _costs(dataclasses.replace(flags, batch_size=size), training, backbone)
  rows, labels = features['train'].images, training.labels
  scores = transferability.score(rows, labels) | of_predictions(flags, training)
  seconds = costs['step'] / size
  evidence = strategy.measure(rows, labels, count, image_seconds=seconds)
  advice = strategy.choose(evidence, flags.budget)
  return Candidate(scores, costs, advice), features


def of_predictions(flags, training):
  """Returns scores of the pretrained classifier, where the weights have one."""
  try:
    variables = weights.load(flags.model, flags.weights)
  except InputError:  # the backbone could be read
    return {}
  classes = variables['params']['head']
  classes = min(leaf.shape[-1] for leaf in jax.tree.leaves(classes) if leaf.ndim > 1)
  model = models.create(flags.model, classes)
  forward = jax.jit(lambda v, x: model.apply(v, to_float(x))['logits'])
  logits = in_batches(lambda x: forward(variables, x), training.images, 64)
  probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits), -1))
  return {
    'LEEP': source_predictions.leep(probabilities, training.labels),
    'NCE': source_predictions.nce(logits.argmax(-1), training.labels),
  }


def _costs(flags, training, backbone):
  count = len(training.classes)
  (method,) = flags.methods(tasks.of(training), 1).values()
  batch = flags.stream(training, 0)(0)
  state = method.init(jax.random.key(0), backbone, batch)
  step = summary.compiled_step(method, state, batch)
  seconds = []
  for _ in range(1 + _TIMED):
    began = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, batch))
    seconds.append(time.perf_counter() - began)
  del metrics
  model, image = flags.build_model(count), batch['image'][:1]
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
  forward = jax.jit(model.apply).lower(variables, image).cost_analysis()
  return {
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(variables['params'])),
    'multiply-adds': forward['flops'] / 2,
    'step': float(np.median(seconds[1:])),
    'memory': sum(summary.step_memory(step).values()),
  }


def front(found: Mapping[str, Candidate]) -> list[str]:
  """The candidates that no other one beats in both estimate and time, by time."""
  return ranking.pareto_front(
    {name: (c.costs['step'], c.scores[ESTIMATE]) for name, c in found.items()}
  )


def score_rows(found: Mapping[str, Candidate], by: str) -> report.Rows:
  """Rows of the table of scores, a column a candidate, the best by `by` first."""
  order = sorted(found, key=lambda name: -found[name].scores[by])
  scores = {name: found[name].scores for name in order}
  rows = [
    {'score': k, **{n: f'{s[k]:.3f}' if k in s else '' for n, s in scores.items()}}
    for k in dict.fromkeys(k for s in scores.values() for k in s)
  ]
  ranks = {name: f'{rank:.1f}' for name, rank in ranking.consensus(scores).items()}
  return [*rows, {'score': 'mean rank', **ranks}]


def cost_rows(found: Mapping[str, Candidate]) -> report.Rows:
  """Rows of the table of costs."""
  on_front = front(found)
  return [
    {
      'model': name,
      'estimate (%)': f'{100 * c.scores[ESTIMATE]:.1f}',
      'parameters, M': f'{c.costs["parameters"] / 1e6:.2f}',
      'multiply-adds, M': f'{c.costs["multiply-adds"] / 1e6:.0f}',
      'ms a step': f'{1e3 * c.costs["step"]:.0f}',
      'MiB a step': f'{c.costs["memory"] / 2**20:.0f}',
      'on the front': 'yes' if name in on_front else '',
    }
    for name, c in found.items()
  ]


def recommend(found: Mapping[str, Candidate], by: str) -> tuple[str, str]:
  """Returns the best candidate by a score, and says why, in plain words."""
  best = max(found, key=lambda name: found[name].scores[by])
  one, values = found[best], {candidate.scores[by] for candidate in found.values()}
  said = f'the highest of {len(found)}'
  if len(values) == 1 < len(found):
    said = f'that of all {len(found)}, which another --score may tell apart'
  text = f'Take {best}: its {by} is {said}. {one.advice.reason}'
  cheaper = [name for name in front(found) if _ratio(one, found[name]) > 1.5]
  if cheaper:
    other = found[cheaper[-1]]
    behind = 100 * (one.scores[ESTIMATE] - other.scores[ESTIMATE])
    less = f'{behind:.1f} points less' if behind > 0 else f'{-behind:.1f} points more'
    text += (
      f' Where time matters, {cheaper[-1]} takes {1 / _ratio(one, other):.0%} of the '
      f'time a step, and a linear probe of it has {less}.'
    )
  return best, text


def _ratio(one, other):
  return one.costs['step'] / other.costs['step']


def draw(found: Mapping[str, Candidate], outcome: Mapping[str, float]) -> Figure:
  """Plots estimates over the time of a step, the front, and what came of it."""
  figure = Figure(figsize=(7, 4.2))
  axes = figure.subplots()
  for name, one in found.items():
    seconds, estimate = 1e3 * one.costs['step'], one.scores[ESTIMATE]
    axes.plot(seconds, estimate, 'o', color='tab:blue')
    axes.annotate(
      name, (seconds, estimate), xytext=(6, 5), textcoords='offset points', fontsize=8
    )
    if name in outcome:
      axes.plot([seconds] * 2, [estimate, outcome[name]], ':', color='grey')
      axes.plot(seconds, outcome[name], '*', color='tab:orange', ms=10)
  line = [found[name] for name in front(found)]
  times = [1e3 * one.costs['step'] for one in line]
  axes.step(times, [one.scores[ESTIMATE] for one in line], where='post', alpha=0.4)
  axes.plot([], [], 'o', color='tab:blue', label='estimate, by a linear probe')
  if outcome:
    axes.plot([], [], '*', color='tab:orange', label='trained, test split')
  axes.set(xlabel='milliseconds a step of full fine-tuning', ylabel='accuracy')
  axes.set_xscale('log')
  axes.margins(x=0.25, y=0.15)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  return figure


def conclude(
  page: report.Page,
  found: Mapping[str, Candidate],
  outcome: Mapping[str, float],
  by: str,
  result: dict,
) -> None:
  """Prints the tables, and adds them and a plot to the page, and figures to `result`.

  Args:
    page: of the run.
    found: candidates by name.
    outcome: test accuracies of those that were trained.
    by: the score that ranks them.
    result: of the run, which gets 'outcome' and 'tau'.
  """
  about = (
    f'The larger the better, but for the mean rank; by {by} the first is on the left.'
  )
  tables = {'Scores': (score_rows(found, by), about)}
  about = f'On {jax.default_backend()}; the estimate is that of a linear probe.'
  tables['Costs'] = cost_rows(found), about
  if outcome:
    result['outcome'] = outcome
    tables['Estimate and outcome'] = (
      [
        {
          'model': name,
          'strategy': found[name].advice.name,
          'estimate (%)': f'{100 * found[name].scores[ESTIMATE]:.1f}',
          'trained (%)': f'{100 * accuracy:.1f}',
        }
        for name, accuracy in outcome.items()
      ],
      'The estimate is of held-out training examples, the outcome of the test split.',
    )
  if len(outcome) > 2:
    names = set.intersection(*(set(found[name].scores) for name in outcome))
    result['tau'] = {
      k: ranking.tau(
        [found[name].scores[k] for name in outcome], list(outcome.values())
      )
      for k in sorted(names)
    }
    rows = [{k: f'{v:.2f}' for k, v in result['tau'].items()}]
    tables["Kendall's tau"] = rows, 'Of each score with the accuracy of the trained.'
  for title, (rows, about) in tables.items():
    report.print_table(rows, title)
    page.table(title, rows, about)
  page.figure(
    'Accuracy and cost', draw(found, outcome), 'The line is the Pareto front.'
  )
