"""What the gap between two domains calls for, and pictures of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors

from tljax import report
from tljax.data.dataset import Dataset
from tljax.extraction import logistic
from tljax.measures import label_shift, validators
from tljax.measures.gap import Interval, Parts

_SHOWN = 10  # images in a row
_CHANCE = 0.05  # p-value from which domains may be one
_MOST = 0.7  # share of the gap that decides
_SURE = 0.5  # information of the predictions, of the most there could be


class Facts(NamedTuple):
  """What advice is given by.

  Attributes:
    p_value: of the MMD.
    a_distance: from 0 to 2.
    parts: of the MMD.
    certainty: mutual information of target images and the source classifier's
      predictions, over log K: 1 where it is sure and knows every class.
    shares: by domain, the classes' (K,); of the target estimated.
  """

  p_value: float
  a_distance: float
  parts: Parts
  certainty: float
  shares: Mapping[str, np.ndarray]


def classify(
  source: Mapping[str, Dataset], target: Dataset
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns logits (M, K) of the target, and each domain's shares of classes, (K,).

  By a logistic regression of the source's training features. The target's shares are an
  estimate that knows its errors on the source's other splits; see `label_shift.bbse`.
  """
  training = source['train']
  count = len(training.classes)
  head = logistic.fit(training.images, training.labels, count)
  held_out = [part for name, part in source.items() if name != 'train']
  seen = np.concatenate([head.logits(part.images).argmax(-1) for part in held_out])
  truth = np.concatenate([part.labels for part in held_out])
  logits = head.logits(target.images)
  estimate = label_shift.bbse(seen, truth, logits.argmax(-1), count)
  known = np.bincount(training.labels, minlength=count) / len(training)
  return logits, {'source': known, 'target': estimate}


def certainty(logits: np.ndarray) -> float:
  """See `Facts`; of logits (N, K)."""
  return float(validators.information(logits) / np.log(logits.shape[-1]))


def advise(facts: Facts, classes: Sequence[str]) -> str:
  """Says which kind of adaptation the gap calls for, and why."""
  parts = facts.parts
  if facts.p_value > _CHANCE:
    return (
      f'There is no gap that could not be chance (p = {facts.p_value:.2f}): train on '
      'the source; there is nothing to adapt to.'
    )
  text = (
    f'The domains differ (A-distance {facts.a_distance:.2f} of 2, p = '
    f'{facts.p_value:.3f}). Of the MMD, other shares of classes alone would explain '
    f'{parts.label_share:.0%}, other means and deviations of features alone '
    f'{parts.style_share:.0%}. '
  )
  if parts.label_share >= _MOST:
    moved = facts.shares['target'] - facts.shares['source']
    more, less = classes[moved.argmax()], classes[moved.argmin()]
    return text + (
      f'It looks like label shift: {more!r} is more, {less!r} less frequent. Weigh the '
      'source by class; where classes lack altogether, adapt by pada or iwan. To align '
      'all features would mix classes.'
    )
  if parts.style_share >= _MOST:
    text += 'It is mostly style: align moments, by dan, jan or cmd, or, of a network '
    text += 'with batch norm, its statistics, by adabn. '
  else:
    text += 'Align whole distributions, classes and all: jan, deepjdot, cdan. '
  if facts.certainty >= _SURE:
    return text + (
      f'The source classifier knows its way in the target (certainty '
      f'{facts.certainty:.2f}): mcc or shot, which build on that, may add to it.'
    )
  return text + (
    f"The source classifier's predictions there tell little (certainty "
    f'{facts.certainty:.2f}): leave methods that learn from them for later.'
  )


def rows(found: Mapping[str, Interval], nothing: Mapping[str, float]) -> report.Rows:
  """Rows of distances, and what they are between halves of the source."""
  return [
    {
      'distance': name,
      'gap': f'{one.value:.3g}',
      '95% interval': f'{one.low:.3g} to {one.high:.3g}',
      **({'within the source': f'{nothing[name]:.3g}'} if name in nothing else {}),
    }
    for name, one in found.items()
  ]


def share_rows(classes: Sequence[str], shares: Mapping[str, np.ndarray]) -> report.Rows:
  """Rows of the classes' shares in each domain, in percent."""
  return [
    {'class': name, **{k: f'{100 * column[i]:.1f}' for k, column in shares.items()}}
    for i, name in enumerate(classes)
  ]


def conclude(
  page: report.Page,
  facts: Facts,
  distances: tuple[Mapping[str, Interval], Mapping[str, float]],
  by_class: Mapping[str, Mapping[int, Interval]],
  classes: Sequence[str],
) -> dict:
  """Prints the tables, adds them to the page, and returns all figures.

  Args:
    page: of the run.
    facts: of the gap.
    distances: by name, and those within the source.
    by_class: MMD of each class, by what labels the target has.
    classes: names.
  """
  found, nothing = distances
  tables = {'Distances': (rows(found, nothing), 'The source has a variance of 1.')}
  named = {
    f'{classes[k]}, by {kind}': one
    for kind, each in by_class.items()
    for k, one in each.items()
  }
  if named:
    about = 'MMD, of classes that both domains have eight examples of.'
    tables['By class'] = rows(named, {}), about
  about = 'In percent; the target by BBSE, which takes all shift for label shift.'
  tables['Shares of classes'] = share_rows(classes, facts.shares), about
  for title, (lines, about) in tables.items():
    report.print_table(lines, title)
    page.table(title, lines, about)
  return {
    'distances': {k: one._asdict() for k, one in found.items()},
    'within the source': nothing,
    'classes': {k: one._asdict() for k, one in named.items()},
    'shares': {k: column.tolist() for k, column in facts.shares.items()},
    'parts': {
      **facts.parts._asdict(),
      'label_share': facts.parts.label_share,
      'style_share': facts.parts.style_share,
    },
    'p_value': facts.p_value,
    'certainty': facts.certainty,
  }


def pictures(
  page: report.Page,
  sets: Mapping[str, Dataset],
  features: Mapping[str, np.ndarray],
  labels: tuple[np.ndarray, np.ndarray],
) -> None:
  """Adds maps, pairs and strangers to the page.

  Args:
    page: of the run.
    sets: by 'source' and 'target', images.
    features: of these, (N, D) and (M, D).
    labels: (N,) and (M,); they colour the map.
  """
  source, target = (sets[k].images for k in ('source', 'target'))
  page.figure(
    'Both domains',
    report.tsne(
      {'features': features},
      dict(zip(sets, labels, strict=True)),
      sets['source'].classes,
    ),
    't-SNE; the colour of target images is what the source classifier says.',
  )
  nearest = NearestNeighbors(n_neighbors=1).fit(features['source'])
  apart, index = (x[:, 0] for x in nearest.kneighbors(features['target']))
  order = np.argsort(apart)
  near, far = order[:_SHOWN], order[::-1][:_SHOWN]
  pairs = {'target': target[near], 'nearest in the source': source[index[near]]}
  page.figure('Nearest pairs across the domains', report.image_rows(pairs))
  strange = {'target': target[far], 'nearest in the source': source[index[far]]}
  about = 'Target images that have the furthest way to any source image.'
  page.figure('Most foreign target images', report.image_rows(strange), about)
