"""Regressions and several sources, in miniature."""

import json

import numpy as np
import pytest

from tljax.data import Transform, load
from tljax.run import Run


@pytest.fixture
def tables(tmp_path):
  """Two tables of y = 100 + 40 a + noise, whose other column is of another scale."""

  def write(name, seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(5, 3, 200), scale * rng.normal(size=200)
    y = 100 + 40 * a + rng.normal(size=200)
    rows = '\n'.join(f'{i},{j},{k}' for i, j, k in zip(a, b, y, strict=True))
    (tmp_path / f'{name}.csv').write_text(f'a,b,y\n{rows}\n')
    return f'csv:{tmp_path}/{name}.csv?features=all&target=y'

  return write('one', 0, 1), write('two', 1, 2)


@pytest.mark.parametrize('method', ['dare_gram', 'coral'])
def test_a_regression(launch, tables, tmp_path, trials, method):
  out = tmp_path / 'run'
  flags = ('--source', tables[0], '--target', tables[1], '--method', method)
  flags += ('--epochs', 25, '--learning-rate', 0.01, '--seeds', 2, '--batch-size', 20)
  ended = launch('adapt', *flags, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert list(result['strategies']) == ['source_only', method]
  targets = load(tables[1], Transform(4))['test'].labels
  for name, figures in result['strategies'].items():
    predicted = trials[name][1].logits[:, 0]  # in the targets' unit
    np.testing.assert_allclose(figures['mae'][1], np.abs(predicted - targets).mean())
    assert figures['r2'][1] > 0.9
  assert {'task_loss', 'validation_r2'} <= Run(out).records(f'{method}-1')[-1].keys()
  assert 'MAE' not in ended.out and 'r2' in ended.out


def test_a_regression_by_the_librarys_settings(launch, tables, tmp_path, trials):
  """Of RSD, whose bottleneck and rates are not those of classes."""
  flags = ('--source', tables[0], '--target', tables[1], '--method', 'rsd')
  flags += ('--preset', 'library:rate=0.01', '--epochs', 2, '--batch-size', 20)
  ended = launch('adapt', *flags, '--out', tmp_path / 'run')
  assert ended.status == 0, ended.err
  assert 'DANN' not in ended.err
  assert np.isfinite(trials['rsd'][0].logits).all()


def test_what_a_regression_refuses(launch, tables, tmp_path):
  flags = ('--source', tables[0], '--batch-size', 20, '--out', tmp_path / 'run')
  ended = launch('adapt', *flags, '--target', tables[1], '--method', 'cdan+mcc')
  assert ended.status == 2 and 'cdan tells classes apart' in ended.err
  fewer = tables[1].replace('all', 'a')
  ended = launch('adapt', *flags, '--target', fewer, '--method', 'coral')
  assert ended.status == 2 and 'the same columns' in ended.err


@pytest.mark.parametrize(
  ('method', 'preset'),
  [('coral', ()), ('vrex', ('--preset', 'library')), ('irm', ('--preset', 'library'))],
)
def test_several_sources(launch, pets, tmp_path, trials, method, preset):
  out, domain = tmp_path / 'run', f'folder:{pets}'
  flags = ('--source', domain, domain, '--target', domain, '--image-size', 8)
  flags += ('--model', 'cnn', '--batch-size', 4, '--epochs', 3, '--seeds', 1)
  ended = launch('adapt', *flags, '--method', method, *preset, '--out', out)
  assert ended.status == 0, ended.err
  assert 'DANN' not in ended.err
  result = json.loads((out / 'result.json').read_text())
  assert list(result['strategies']) == ['source_only', method]
  assert int(trials[method][0].state.step) == 9
