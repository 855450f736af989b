"""Which score would be chosen, on figures made up."""

import numpy as np
import pytest

from benchmarks import selection, transferability
from tljax.measures import evidence

NETWORKS = ('a', 'b', 'c')


def facts(good, fickle, accuracies):
  rows = zip(accuracies, good, fickle, strict=True)
  return {
    name: {'accuracy': accuracy, 'good': x, 'fickle': y}
    for name, (accuracy, x, y) in zip(NETWORKS, rows, strict=True)
  }


SETS = {
  'pets': facts((1, 2, 3), (1, 2, 3), (0.7, 0.8, 0.9)),
  'digits': facts((3, 1, 2), (1, 2, 3), (0.9, 0.7, 0.8)),
  'art': facts((1, 3, 2), (3, 2, 1), (0.5, 0.7, 0.6)),
}


def test_the_default_is_judged_on_a_set_that_did_not_choose_it():
  found = selection.taus(SETS)
  assert found['good'] == {'pets': 1, 'digits': 1, 'art': 1}
  np.testing.assert_allclose(found['fickle']['digits'], -1 / 3)
  assert selection.held_out(found, SETS) == {t: ('good', 1) for t in SETS}
  assert [row['score'] for row in selection.table(found)] == ['good', 'fickle']


def test_a_score_that_a_network_lacks_is_not_chosen():
  sets = {t: {k: dict(v) for k, v in by.items()} for t, by in SETS.items()}
  for by in sets.values():
    for name in NETWORKS:
      by[name]['good'] *= -1  # now the worst of the two
    by['d'] = {'accuracy': 0.1, 'good': 9.0}
  found = selection.taus(sets)
  assert np.mean([*found['fickle'].values()]) > np.mean([*found['good'].values()])
  assert {name for name, _ in selection.held_out(found, sets).values()} == {'good'}


def test_a_score_that_few_networks_have_is_not_judged():
  sets = {'pets': {k: dict(v) for k, v in SETS['pets'].items()}}
  sets['pets']['a']['LEEP'] = sets['pets']['b']['LEEP'] = -1.0
  assert 'LEEP' not in selection.taus(sets)


@pytest.mark.parametrize('examples', [200, 20])
def test_the_plain_algorithm_is_the_same_score(examples):
  features, labels = transferability.drawn(examples, 30, 2)
  found = transferability.published_logme(features, labels)
  if examples == 200:
    np.testing.assert_allclose(found, evidence.logme(features, labels), atol=1e-3)
  assert np.isfinite(found)


def test_a_score_is_behind_by_what_the_network_it_names_lacks():
  lost = selection.behind(SETS)
  np.testing.assert_allclose([*lost['good'].values()], 0)
  np.testing.assert_allclose([*lost['fickle'].values()], [0, 10, 20], atol=1e-9)
  (row, _) = selection.table(selection.taus(SETS), behind=lost)
  assert (row['score'], row['mean'], row['behind']) == ('good', '1.00', '0.00')
  result = selection.judge(SETS)
  assert result['held out by behind'] == {t: ('good', 0) for t in SETS}
