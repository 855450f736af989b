import numpy as np
import pytest

from experiments import grid


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
  rows = {row['validator']: row for row in grid.correlations(records)}
  assert list(rows['right'].values()) == ['right', '1.00', '1.00', '1.00']
  assert rows['wrong']['mean'] == '-1.00' and rows['still']['mean'] == '0.00'
  assert rows['consensus']['mean'] == '0.00'  # their ranks cancel


def test_one_task_where_the_consensus_is_of_two_against_one():
  records = [
    {'accuracy': x, 'validators': {'p': x, 'q': x, 'r': -x}} for x in (0.1, 0.4, 0.6)
  ]
  *_, consensus = grid.correlations({'a': records})
  assert consensus == {'validator': 'consensus', 'a': '1.00', 'mean': '1.00'}


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
