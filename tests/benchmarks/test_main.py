"""The harness in miniature: its command line, its files, what it refuses."""

import json
import re
import signal
import sys
from concurrent import futures

import jax
import pytest
from PIL import Image

from benchmarks import __main__ as main
from benchmarks import cases, show, steps
from experiments import cli
from tljax import models

CEILING = {'flops_per_second': 1e10, 'bytes_per_second': 1e10}


class Here(futures.Executor):
  """Runs in this process, where a test may have replaced things."""

  def submit(self, function, *args):
    task = futures.Future()
    task.set_result(function(*args))
    return task


@pytest.fixture
def launch(monkeypatch, capsys):
  """Returns `(*argv) -> (status, standard output, standard error)`."""
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(main.harness, 'ceiling', lambda _: CEILING)
  monkeypatch.setattr(main, 'ProcessPoolExecutor', lambda *_, **__: Here())
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)  # the tests' cache

  def launch(*argv):
    monkeypatch.setattr(sys, 'argv', ['benchmarks', *map(str, argv)])
    status = 0
    try:
      cli.main(main.benchmark, main.Flags)
    except SystemExit as stop:
      status = stop.code
    return status, *capsys.readouterr()

  yield launch
  signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=[False, True], ids=['alone', 'beside'])
def beside_torch(request, monkeypatch):
  """Whether PyTorch is there."""
  if not request.param:
    monkeypatch.setattr(steps, 'torch', None)
  elif steps.torch is None:
    pytest.skip('torch is absent')
  return request.param


def test_in_miniature(launch, beside_torch, tmp_path):
  out = tmp_path / 'figures.json'
  flags = ('--cases', 'cnn/*', '--seconds', 0.1, '--batch-size', 2, '--out', out)
  status, text, errors = launch(*flags)
  assert (status, errors) == (0, '') and 'cnn/dann' in text
  written = json.loads(out.read_text())
  assert written['jax'] == jax.__version__ and written['ceiling'] == CEILING
  assert list(written['cases']) == ['cnn/dann']
  found = written['cases']['cnn/dann']
  ours = found['contenders']['tljax']
  assert 0 < ours['low'] <= ours['median'] <= ours['high']
  assert found['commit'] == written['commit'] and written['dtype'] == 'float32'
  assert ours['compile_seconds'] > 0 and ours['memory_bytes'] > 0
  assert ours['of_flops'] == ours['flops'] / ours['median'] / 1e10
  if beside_torch:
    assert found['contenders']['torch']['memory_bytes'] > 0
  else:
    assert found['missing'] == {'torch': 'PyTorch is not installed'}
  assert bool(found['ratios']) == beside_torch
  assert found['flags'] == '--batch-size 2' and found['elapsed_seconds'] > 0.1
  assert '| cnn/dann --batch-size 2 |' in out.with_suffix('.md').read_text()
  assert '<svg' in out.with_suffix('.svg').read_text()


def test_processes_of_their_own(launch, monkeypatch, tmp_path):
  monkeypatch.setattr(main, 'ProcessPoolExecutor', futures.ProcessPoolExecutor)
  out = tmp_path / 'figures.json'
  flags = ('--cases', 'cnn/*', '--seconds', 0.1, '--batch-size', 2, '--out', out)
  status, _, errors = launch(*flags, '--processes', 2)
  assert (status, errors) == (0, '')
  found = json.loads(out.read_text())['cases']['cnn/dann']
  assert found['rounds'] >= 6  # at least three of each
  assert all(len(ratio['processes']) == 2 for ratio in found['ratios'].values())


def test_the_list_and_the_short_set(launch):
  status, text, _ = launch('--list')
  lines = text.splitlines()
  assert status == 0 and [line.split(',')[0] for line in lines] == list(cases.CASES)
  assert sum('short' in line for line in lines) == len(cases.SHORT)
  assert set(cases.SHORT) <= set(cases.CASES)
  assert all(set(bars) <= set(cases.CASES) for bars in cases.BARS.values())
  assert set(steps.NETWORKS) <= set(models.names())
  flags = main.Flags(cases=('vgg16/*', 'loop'))
  wanted = [*(f'vgg16/{strategy}' for strategy in steps.STRATEGIES), 'loop']
  assert main.chosen(flags) == wanted
  assert main.chosen(main.Flags(all=True)) == list(cases.CASES)


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    (('--cases', 'magic/*'), 'magic'),
    (('--seconds', 0), '--seconds'),
    (('--processes', 0), '--processes'),
    (('--batch-size', 0), '--batch-size'),
    (('--peers', 'caffe'), 'caffe'),
    (('--dtype', 'float16'), '--dtype'),
    (('--data', 'nowhere'), 'nowhere'),
    ((), 'figures.json exists and has no figures; choose another --out'),
  ],
)
def test_it_refuses_in_one_line_and_keeps_the_file(launch, tmp_path, flags, named):
  out = tmp_path / 'figures.json'
  out.write_text('measured long ago')
  status, _, line = launch('--out', out, *flags)
  assert status == 2
  assert re.fullmatch(r'error: .*\n', line) and named in line
  assert [path.read_text() for path in tmp_path.iterdir()] == ['measured long ago']


def test_cases_join_those_of_the_same_machine(launch, tmp_path, monkeypatch):
  monkeypatch.setattr(main, 'measure', lambda name, *_: figures(1.0))
  out = tmp_path / 'figures.json'
  for name in ('import', 'cnn/dann'):
    assert launch('--cases', name, '--out', out)[0] == 0
  written = json.loads(out.read_text())
  assert list(written['cases']) == ['cnn/dann', 'import']  # in the table's order
  del written['dtype']  # as in files of before; it was the usual one
  out.write_text(json.dumps(written))
  assert launch('--cases', 'import', '--out', out)[0] == 0
  status, _, line = launch('--cases', 'import', '--out', out, '--dtype', 'bfloat16')
  assert status == 2 and 'other versions, cores or dtype' in line
  out.write_text(json.dumps({**written, 'jax': '0.1'}))
  status, _, line = launch('--cases', 'import', '--out', out)
  assert status == 2 and 'other versions, cores or dtype' in line


def figures(seconds, bar=None, **ratios):
  def spread(value):
    return {'median': value, 'low': 0.9 * value, 'high': 1.1 * value}

  peers = {k: spread(seconds * v) for k, v in ratios.items()}
  found = {
    'contenders': {'tljax': spread(seconds), **peers},
    'ratios': {k: spread(v) for k, v in ratios.items()},
    'missing': {},
  }
  return {**found, 'bar': bar and bar.judge(found)}


def test_the_table_says_how_each_stands_to_its_bar():
  bar = cases.Bar
  rows = show.times(
    {
      'vgg16/head': figures(0.5, bar(0.9), torch=0.8, other=1.2),
      'loop': figures(2.0, bar(1.02, 'bare', is_cost=True), bare=0.99),
      'quickstart': figures(200.0, bar(180, None)),
      'start': {**figures(1.0), 'missing': {'torch': 'not installed'}},
    }
  )
  verdicts = [row['bar'] for row in rows]
  assert verdicts[:2] == ['BELOW: >= 0.9', '']
  assert verdicts[2] == 'passes: <= 1.02 (cost 1.01)'
  assert verdicts[3] == 'BELOW: <= 180 s'
  assert rows[0]['tljax'] == '500 ms (450-550)'
  assert rows[0]['ratio'] == '0.80 (0.72-0.88)'
  assert rows[-1]['its time'] == 'not installed'


def test_photographs_in_splits_are_refused_in_one_line(launch, tmp_path):
  for part in ('train/cat', 'train/dog', 'val/cat', 'val/dog'):
    folder = tmp_path / part
    folder.mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(folder / 'a.jpg')
  status, _, line = launch('--cases', 'input/evaluation', '--data', tmp_path)
  assert status == 2 and line.count('\n') == 1 and 'has splits' in line
