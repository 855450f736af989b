import numpy as np
import pytest

from experiments import grid
from tljax.errors import InputError


def test_correlations_are_of_ranks_within_a_task():
  """One validator is right in both tasks, another the other way round, one constant."""
  accuracies = {'a': [0.2, 0.5, 0.9], 'b': [0.9, 0.1, 0.3]}
  records = {
    task: [
      {'accuracy': x, 'validators': {'right': x**3, 'wrong': -x, 'still': 1.0}}
      for x in column
    ]
    for task, column in accuracies.items()
  }
  found = grid.correlations(records)
  assert found['right'] == pytest.approx({'a': 1, 'b': 1})
  assert found['wrong'] == pytest.approx({'a': -1, 'b': -1})
  assert found['still'] == found['consensus'] == {'a': 0, 'b': 0}  # ranks cancel


def test_one_task_where_the_consensus_is_of_two_against_one():
  records = [
    {'accuracy': x, 'validators': {'p': x, 'q': x, 'r': -x}} for x in (0.1, 0.4, 0.6)
  ]
  assert grid.correlations({'a': records})['consensus'] == pytest.approx({'a': 1})


def test_choices_are_of_the_methods_of_a_seed():
  """'p' is 0 and 20 points behind; 'q', the same of all, is as chance."""
  accuracies = {'a-0': 0.9, 'source_only-0': 0.5, 'a-1': 0.6, 'source_only-1': 0.4}
  said = {'a-0': 1.0, 'source_only-0': 0.5, 'a-1': 8.0, 'source_only-1': 9.0}
  records = [
    {'run': f's to t, {run}', 'accuracy': x, 'validators': {'p': said[run], 'q': 0.0}}
    for run, x in accuracies.items()
  ]
  found = grid.choices({'s to t': records})
  assert list(found) == ['p', 'q', 'consensus', 'chance']
  for name, regret in {'p': 0.1, 'q': 0.15, 'consensus': 0.1, 'chance': 0.15}.items():
    assert found[name]['s to t']['regret'] == pytest.approx(regret)
  assert found['p']['s to t']['methods'] == ['a', 'source_only']
  assert found['chance']['s to t']['methods'] == []
  first, *_, last = grid.choice_rows(found)
  assert first == {'validator': 'p', 'mean': '10.0', 's to t': '10.0 a'}
  assert last == {'validator': 'chance', 'mean': '15.0', 's to t': '15.0'}


def test_what_infomax_gains_is_of_the_validation_split():
  steps = [(0.5, 1.0), (0.75, 1.5), (0.25, 1.25)]
  names = 'validation_accuracy', 'validation_infomax'
  records = [dict(zip(names, step, strict=True)) for step in steps]
  assert grid.stopped(records) == {'infomax_gain': 0.5}
  assert grid.stopped(records[:2]) == {'infomax_gain': 0.0}
  assert grid.stopped([{'loss': 1.0}]) == {}


@pytest.mark.parametrize('count', [1, 6])
def test_the_maps_are_of_what_was_kept(tmp_path, count):
  class Split:
    labels, classes = np.zeros(40, np.int32), ('x',)

  names = [f'method{i}' for i in range(count)]
  for name in names:
    found = [np.random.default_rng(i).normal(size=(40, 3)) for i in (0, 1)]
    grid.keep(tmp_path / 'features', name, found)
  figure = grid.draw(
    tmp_path / 'features', names, {'s': {'test': Split}, 't': {'validation': Split}}
  )
  titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
  assert titles == names and len(figure.axes) == (1 if count == 1 else 8)
  three = {name: {'test': Split} for name in ('s', 's2', 't')}
  with pytest.raises(InputError, match='features of other domains'):
    grid.draw(tmp_path / 'features', names, three)
