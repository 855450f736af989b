"""Which kind of adaptation the gap between two domains calls for."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tljax.measures import validators
from tljax.measures.gap import Parts

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
  by_labels = f'{parts.label_share:.0%}'
  if math.isnan(parts.label_share):
    by_labels = 'a part that so few examples leave open'
  text = (
    f'The domains differ (A-distance {facts.a_distance:.2f} of 2, p = '
    f'{facts.p_value:.3f}). Of the MMD, other shares of classes alone would explain '
    f'{by_labels}, other means and deviations of features alone '
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
