"""The grid of strategies, sets, numbers of labels and seeds, in miniature."""

import json

import pytest

from tljax import models
from tljax.finetuning import labels
from tljax.run import Run

pytestmark = pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
NAMES = ('probe', 'partial', 'bitfit', 'chosen')


def test_a_grid(launch, pets, squeezenet, tmp_path, monkeypatch):
  freeze, held = labels.freeze, []

  def spy(model, optimizer, *patterns):
    held.extend(patterns)
    return freeze(model, optimizer, *patterns)

  monkeypatch.setattr(labels, 'freeze', spy)
  out = tmp_path / 'run'
  flags = ('--data', f'folder:{pets}', '--few', 0, '--weights', squeezenet)
  flags += ('--strategies', *NAMES, '--image-size', 33, '--batch-size', 8)
  flags += ('--epochs', 1, '--min-steps', 3, '--seeds', 1, '--out', out)
  ended = launch('strategies', *flags)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert list(result) == list(NAMES)
  assert all(list(tasks) == ['pets, all'] for tasks in result.values())
  # Cats are dark, dogs are bright: their features tell.
  assert result['probe']['pets, all']['accuracy_mean'] >= 0.75
  records = {r['run']: r for r in Run(out).records()}
  assert len(records) == len(NAMES)
  trained = {name: records[f'pets, all, {name}-0']['trained'] for name in NAMES}
  assert trained['probe'] == 2 * (512 + 1)
  whole = models.spec('squeezenet1_1').parameters - 513 * (1000 - 2)
  assert trained['probe'] < trained['partial'] < whole
  assert trained['probe'] < trained['bitfit'] < 0.05 * whole
  assert held[1:] == [labels.ALL_BUT_BIASES]
  # Six examples of a class that frozen features tell apart want no more than a head.
  chosen = records['pets, all, chosen-0']
  assert chosen['used'] == 'probe' and '6 examples of a class' in chosen['reason']
  assert chosen['accuracy'] == records['pets, all, probe-0']['accuracy']
  page = (out / 'report.html').read_text()
  assert all(name in page and name in ended.out for name in NAMES)


def test_bad_input(launch, pets, squeezenet, tmp_path):
  flags = ('--data', f'folder:{pets}', '--weights', squeezenet, '--image-size', 33)
  flags += ('--min-steps', 3, '--out', tmp_path / 'run')
  ended = launch('strategies', *flags, '--few', 30, '--strategies', 'probe')
  assert ended.status == 2 and "class 'cat' has 6 examples" in ended.err
  ended = launch('strategies', *flags, '--resume', '--strategies', 'magic')
  assert ended.status == 2 and "method 'magic' is unknown" in ended.err
