import json

import numpy as np
import pytest

from experiments import results
from tljax.data.dataset import Dataset
from tljax.run import Run
from tljax.train import Trial


@pytest.fixture
def run(tmp_path):
  return Run.open(tmp_path, {}, resume=False)


def test_a_grid_has_the_figures_that_all_seeds_have(run):
  """A figure that one seed lacks, and text, are left out."""
  run.log('t, a-0', {'accuracy': 0.5, 'seconds': 1, 'memory': 2**21, 'used': 'probe'})
  run.log('t, a-1', {'accuracy': 0.7, 'seconds': 3, 'memory': 2**22, 'used': 'full'})
  run.log('t, b-0', {'accuracy': 0.4, 'seconds': 1})
  run.log('t, b-1', {'accuracy': 0.2, 'seconds': 1, 'memory': 2**22})
  results.conclude_grid(run, ['t'], ['a', 'b'], [0, 1], 'Grid').save()
  found = json.loads((run.folder / 'result.json').read_text())
  assert found['a']['t'] == {
    'accuracy_mean': pytest.approx(0.6),
    'accuracy_std': pytest.approx(np.std([0.5, 0.7], ddof=1)),
    'accuracy': [0.5, 0.7],
    'seconds': 2.0,
    'memory': 1.5 * 2**21,
  }
  assert 'memory' not in found['b']['t']
  assert '<td>3</td>' in (run.folder / 'report.html').read_text()  # MiB


def test_several_classes(run, capsys):
  labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
  logits = np.where(labels, 1.0, -1.0)
  seeds = [Trial(None, [{'seconds': 1.0}], z, np.nan) for z in (logits, -logits)]
  judged = Dataset(np.zeros((4, 1)), labels, ('a', 'b'))
  results.conclude(run, {'head': seeds}, judged, 'Title', 'Text.').save()
  found = json.loads((run.folder / 'result.json').read_text())
  assert found['exact'] == 0.5 and found['strategies']['head']['macro_f1'] == [1, 0]
  assert '0.500 ± 0.707' in capsys.readouterr().out
