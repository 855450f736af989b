"""What the gap between two domains calls for, and pictures of it."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from tljax import plots, report
from tljax.adaptation import advice
from tljax.data.dataset import Dataset
from tljax.extraction import logistic
from tljax.measures import label_shift
from tljax.measures.gap import Interval

_SHOWN = 10  # images in a row


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


def rows(found: Mapping[str, Interval], nothing: Mapping[str, float]) -> report.Rows:
  """Rows of distances, and what halves of both, and of the source, are apart."""
  return [
    {
      'distance': name,
      'gap': f'{one.value:.3g}',
      '95% interval': f'{one.low:.3g} to {one.high:.3g}',
      **(_halves(one, nothing[name]) if name in nothing else {}),
    }
    for name, one in found.items()
  ]


def _halves(one, within):
  return {'of halves': f'{one.halves:.3g}', 'of halves of the source': f'{within:.3g}'}


def share_rows(classes: Sequence[str], shares: Mapping[str, np.ndarray]) -> report.Rows:
  """Rows of the classes' shares in each domain, in percent."""
  return [
    {'class': name, **{k: f'{100 * column[i]:.1f}' for k, column in shares.items()}}
    for i, name in enumerate(classes)
  ]


def conclude(
  page: report.Page,
  facts: advice.Facts,
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
  about = (
    'The source has a variance of 1. What is small is further apart by chance: compare '
    'halves of both domains with halves of the source.'
  )
  tables = {'Distances': (rows(found, nothing), about)}
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
    plots.tsne(
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
  page.figure('Nearest pairs across the domains', plots.image_rows(pairs))
  strange = {'target': target[far], 'nearest in the source': source[index[far]]}
  about = 'Target images that have the furthest way to any source image.'
  page.figure('Most foreign target images', plots.image_rows(strange), about)
