"""Every script in miniature, end to end: what it leaves in its run folder."""

import base64
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import extract
from tljax import weights
from tljax.checkpoint import Checkpoints
from tljax.data import Transform, augment, batches, digits
from tljax.data import load as load_data
from tljax.extraction import saved
from tljax.run import Run

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = {path.stem for path in (ROOT / 'experiments').glob('*.py')} - {
  '__init__',
  'cli',
  'diagnosis',
  'judgement',
  'grid',
  'machine',
  'results',
  'selection',
  'settings',
  'tasks',
  'trained',
  'tuning',
}
CNN = ('--model', 'cnn', '--batch-size', 4)


def check_run(out, *, strategies, seeds, steps, pictures, others=(), **config):
  """Asserts that the run folder is whole; returns the result."""
  names = {f'{name}-{seed}' for name in strategies for seed in seeds}
  assert {path.name for path in out.iterdir() if path.name != '.lock'} == {
    'config.json',
    'metrics.jsonl',
    'result.json',
    'report.html',
    'checkpoints',
    'tensorboard',
    *others,
  }
  written = json.loads((out / 'config.json').read_text())
  assert written.items() >= {**config, 'seed': seeds[0], 'seeds': len(seeds)}.items()
  assert not {'out', 'resume'} & written.keys()
  result = json.loads((out / 'result.json').read_text())
  assert list(result['strategies']) == list(strategies)
  _check_records(out, names, steps)
  _check_figures(result, len(seeds))
  _check_page(out / 'report.html', strategies, pictures)
  assert {path.name for path in (out / 'checkpoints').iterdir()} == names
  for name in names:
    with Checkpoints(out / 'checkpoints' / name) as checkpoints:
      assert checkpoints.latest_step() == steps
  return result


def _check_records(out, names, steps):
  records = Run(out).records()
  assert {record['run'] for record in records} == names
  every = max(1, steps // 10)
  wanted = sorted({*range(every, steps + 1, every), steps})
  for name in names:
    assert [r['step'] for r in records if r['run'] == name] == wanted
  for record in records:
    assert {'loss', 'seconds', 'validation_accuracy'} <= record.keys()
    assert all(math.isfinite(v) for k, v in record.items() if k != 'run')


def _check_figures(result, seeds):
  for figures in result['strategies'].values():
    accuracies = figures['accuracy']
    assert len(accuracies) == seeds and all(0 <= a <= 1 for a in accuracies)
    np.testing.assert_allclose(figures['accuracy_mean'], np.mean(accuracies))
    std = np.std(accuracies, ddof=1) if seeds > 1 else 0
    np.testing.assert_allclose(figures['accuracy_std'], std)
    assert 0 < figures['seconds'] < math.inf


def _check_page(path, strategies, pictures):
  """Pictures are titles; nothing is fetched from elsewhere."""
  text = path.read_text(encoding='utf-8')
  assert text.endswith('</html>\n')
  images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]+)">', text)
  assert [title for title, _ in images] == pictures
  for _, data in images:
    assert base64.b64decode(data, validate=True).startswith(b'\x89PNG\r\n')
  assert text.count('src=') == len(images)
  assert not re.search(r'https?:|<script|<link|url\(', text)
  assert re.findall(r'<tr><td>(.*?)</td>', text) == [
    name.replace('_', ' ') for name in strategies
  ]


PICTURES = ['Accuracy', 'Learning curves']


def test_quickstart(launch, tmp_path):
  strategies = (
    'source_only',
    'scratch',
    'feature_extraction',
    'fine_tuning',
    'dann',
    'oracle',
  )
  ended = launch('quickstart', '--epochs', 1, '--seeds', 1, '--out', tmp_path / 'run')
  assert ended.status == 0, ended.err
  check_run(
    tmp_path / 'run',
    strategies=strategies,
    seeds=[0],
    steps=math.ceil(len(digits.read('digits')['train']) / 64),
    pictures=[
      *PICTURES,
      'The domains',
      'Features before and after adaptation',
      'Confusion of dann',
    ],
    epochs=1,
    batch_size=64,
  )
  assert all(name.replace('_', ' ') in ended.out for name in strategies)


def test_finetune_from_scratch(launch, pets, tmp_path, trials, monkeypatch):
  out = tmp_path / 'run'
  stream, streams = batches.stream, []

  def spy(dataset, **options):
    streams.append(tuple(options[k] for k in ('batch_size', 'seed', 'augment')))
    return stream(dataset, **options)

  monkeypatch.setattr(batches, 'stream', spy)
  data = f'folder:{pets}'
  flags = ('--data', data, '--epochs', 12, '--seeds', 2, '--seed', 3)
  ended = launch(
    'finetune', *flags, *CNN, '--image-size', 12, '--learning-rate', 0.01, '--out', out
  )
  assert ended.status == 0, ended.err
  result = check_run(
    out,
    strategies=['scratch'],
    seeds=[3, 4],
    steps=12 * 12 // 4,
    pictures=PICTURES,
    data=data,
    model='cnn',
    weights=None,
    image_size=12,
    fingerprint=load_data(data, Transform(12, 12))['train'].fingerprint(),
  )
  assert result['accuracy'] == result['strategies']['scratch']['accuracy_mean']
  assert result['accuracy'] >= 0.75  # cats are dark, dogs are bright; half is chance
  assert streams == [(4, 3, augment.flip), (4, 4, augment.flip)]
  first, second = (jax.device_get(t.state.params) for t in trials['scratch'])
  kernels = (p['backbone']['stage1']['conv']['kernel'] for p in (first, second))
  assert not np.array_equal(*kernels)  # each seed draws its own network


def test_finetune_starts_from_the_weights(launch, pets, squeezenet, tmp_path, trials):
  out, rate = tmp_path / 'run', 1e-5
  flags = ('--data', f'folder:{pets}', '--weights', squeezenet, '--image-size', 33)
  flags += ('--freeze', 'backbone/stage[12]/.*', '--learning-rate', rate)
  ended = launch(
    'finetune', *flags, '--epochs', 1, '--seeds', 1, '--batch-size', 6, '--out', out
  )
  assert ended.status == 0, ended.err
  check_run(
    out,
    strategies=['fine_tuning'],
    seeds=[0],
    steps=2,
    pictures=PICTURES,
    weights=str(squeezenet),
    freeze=['backbone/stage[12]/.*'],
  )
  published = weights.load_backbone('squeezenet1_1', squeezenet)['params']['backbone']
  params = jax.device_get(trials['fine_tuning'][0].state.params)
  for stage, before in published.items():
    after = params['backbone'][stage]
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), after, before))
    # Adam's step is at most about the rate.
    assert (
      (max(moved) == 0)
      if stage in ('stage1', 'stage2')
      else (0 < max(moved) < 4 * rate)
    )
  assert params['head']['classifier']['kernel'].shape == (512, 2)


SMALL = ('--image-size', 33, '--batch-size', 6)


def predict(folder, images):
  """What the model that a run has left says of images (N, H, W, 3) uint8."""
  model, variables, *_ = saved.load(folder / 'model')
  return np.asarray(model.apply(variables, np.float32(images / 255))['logits'])


@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_extract(launch, pets, squeezenet, tmp_path, trials):
  out, cache = tmp_path / 'run', tmp_path / 'cache'
  flags = ('--data', f'folder:{pets}', '--weights', squeezenet, *SMALL)
  flags += ('--model', 'squeezenet1_1', '--head', 'linear', '--cache', cache)
  ended = launch('extract', *flags, '--epochs', 20, '--seeds', 2, '--out', out)
  assert ended.status == 0, ended.err
  result = check_run(
    out,
    strategies=['linear'],
    seeds=[0, 1],
    steps=40,
    pictures=PICTURES,
    others={'model'},
    epochs=20,
    weights=str(squeezenet),
  )
  assert result['accuracy'] >= 0.75
  assert result['settings'] == {'learning_rate': 1e-3}
  assert len(list(cache.iterdir())) == 3
  test = load_data(f'folder:{pets}', Transform(33, 38))['test']
  first, _ = trials['linear']
  np.testing.assert_allclose(predict(out, test.images), first.logits, atol=1e-4)
  assert saved.load(out / 'model').classes == ('cat', 'dog')
  assert saved.load(out / 'model').transform == Transform(33, 38)


def test_extract_by_default_is_the_founding_recipe(tmp_path):
  flags = extract.Flags(data='', out=tmp_path)
  assert (flags.model, flags.head, flags.place()['endpoint']) == ('vgg16', 'mlp', 'map')
  assert (flags.epochs, flags.batch_size, flags.learning_rate) == (10, 32, 1e-3)


@pytest.mark.parametrize(
  ('head', 'settings'),
  [('logistic', ['C']), ('mlp', ['learning_rate', 'weight_decay', 'dropout'])],
)
@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_extract_sweeps_and_takes_views(
  launch, pets, squeezenet, tmp_path, head, settings
):
  out = tmp_path / 'run'
  flags = ('--data', f'folder:{pets}', '--weights', squeezenet, *SMALL)
  flags += ('--model', 'squeezenet1_1', '--head', head, '--sweep', '--epochs', 4)
  flags += ('--endpoint', 'stage3', '--pooling', 'max', '--views', 2, '--shots', 3)
  ended = launch('extract', *flags, '--seeds', 2, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert result['accuracy'] >= 0.75 and list(result['settings']) == settings
  assert {r['run'] for r in Run(out).records()} == {f'{head}-0', f'{head}-1'}
  pictures = PICTURES if head == 'mlp' else ['Accuracy']
  _check_page(out / 'report.html', [head], pictures)
  test = load_data(f'folder:{pets}', Transform(33, 38))['test']
  accuracy = np.mean(predict(out, test.images).argmax(-1) == test.labels)
  assert accuracy == result['strategies'][head]['accuracy'][0]


@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_extract_of_a_regression(launch, tables, squeezenet, tmp_path):
  """How bright a picture is."""
  data, _ = tables
  out = tmp_path / 'run'
  flags = ('--data', data, '--weights', squeezenet)
  flags += ('--model', 'squeezenet1_1', '--head', 'ridge', *SMALL)
  ended = launch('extract', *flags, '--seeds', 1, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  test = load_data(data, Transform(33, 38))['test']
  predicted = predict(out, test.images)[:, 0]
  error = np.abs(predicted - test.labels).mean()
  np.testing.assert_allclose(result['mae'], error, rtol=1e-3)
  spread = np.sum((test.labels - test.labels.mean()) ** 2)
  r2 = 1 - np.sum((predicted - test.labels) ** 2) / spread
  np.testing.assert_allclose(result['r2'], r2, rtol=1e-3)
  assert r2 > 0.5
  _check_page(out / 'report.html', ['ridge'], ['Predictions of ridge'])


def test_adapt(launch, pets, tmp_path, trials):
  out, domain = tmp_path / 'run', f'folder:{pets}'
  flags = ('--source', domain, '--target', domain, '--image-size', 8, *CNN)
  flags += ('--epochs', 3, '--seeds', 1, '--strength', 0.25, '--augment', 'flip')
  ended = launch('adapt', *flags, '--out', out)
  assert ended.status == 0, ended.err
  splits, steps = load_data(domain, Transform(8, 8)), 9
  result = check_run(
    out,
    strategies=['source_only', 'dann'],
    seeds=[0],
    steps=steps,
    pictures=PICTURES,
    fingerprint=[splits['train'].fingerprint()] * 2,
  )
  assert 'accuracy' not in result  # of which of the two?
  predicted = trials['dann'][0].logits.argmax(-1)
  (accuracy,) = result['strategies']['dann']['accuracy']
  np.testing.assert_allclose(accuracy, np.mean(predicted == splits['test'].labels))
  strengths = [r['strength'] for r in Run(out).records('dann-0')]
  progress = np.arange(steps) / steps
  wanted = 0.25 * (2 / (1 + np.exp(-10 * progress)) - 1)
  np.testing.assert_allclose(strengths, wanted, rtol=1e-4, atol=1e-6)


def test_adapt_by_a_sum(launch, pets, tmp_path):
  out, domain = tmp_path / 'run', f'folder:{pets}'
  flags = ('--source', domain, '--target', domain, '--image-size', 8, *CNN)
  flags += ('--epochs', 1, '--seeds', 1, '--method', 'cdan+mcc', '--out', out)
  ended = launch('adapt', *flags)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert list(result['strategies']) == ['source_only', 'cdan+mcc']


def test_adapt_with_a_few_labels_of_the_target(launch, pets, tmp_path):
  out, domain = tmp_path / 'run', f'folder:{pets}'
  flags = ('--source', domain, '--target', domain, '--image-size', 8, *CNN)
  flags += ('--epochs', 1, '--seeds', 1, '--method', 'mme', '--target-shots', 2)
  ended = launch('adapt', *flags, '--out', out)
  assert ended.status == 0, ended.err
  strategies = ['source_only', 'source_and_target', 'mme']
  check_run(out, strategies=strategies, seeds=[0], steps=3, pictures=PICTURES)


@pytest.mark.parametrize(
  ('method', 'flags'),
  [
    ('pada', ('--setting', 'partial', '--target-classes', 'dog')),
    ('osbp', ('--setting', 'open', '--source-classes', 'cat')),
  ],
)
def test_adapt_between_domains_of_other_classes(
  launch, pets, tmp_path, method, flags, trials
):
  out, domain = tmp_path / 'run', f'folder:{pets}'
  flags += ('--source', domain, '--target', domain, '--image-size', 8, *CNN)
  flags += ('--epochs', 2, '--seeds', 1, '--method', method, '--out', out)
  ended = launch('adapt', *flags)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  predicted = trials[method][0].logits.argmax(-1)
  figures = result['strategies'][method]
  if method == 'pada':  # the test split has three dogs
    assert trials[method][0].logits.shape == (3, 2) and 'hos' not in figures
    assert figures['accuracy'] == [np.mean(predicted == 1)]
  else:  # three cats, and three dogs that are unknown
    cats, dogs = predicted[:3] == 0, predicted[3:] == 1
    assert figures['os_star'] == [np.mean(cats)] and figures['unk'] == [np.mean(dogs)]
    assert 'HOS' in ended.out and 'unk_mean' in result['strategies']['source_only']


def test_as_a_user_starts_it(pets, tmp_path):
  out = tmp_path / 'run'
  command = [sys.executable, '-m', 'experiments.finetune', '--data', f'folder:{pets}']
  command += [*map(str, CNN), '--epochs', '1', '--seeds', '1', '--out', str(out)]
  environment = {**os.environ, 'XLA_FLAGS': ''}
  ended = subprocess.run(
    command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120
  )
  assert ended.returncode == 0, ended.stderr
  check_run(out, strategies=['scratch'], seeds=[0], steps=3, pictures=PICTURES)
  assert 'scratch' in ended.stdout
  assert ended.stderr == f'wrote {out / "report.html"}\n'


@pytest.mark.parametrize('script', sorted(SCRIPTS))
def test_scripts_are_thin_and_say_how_they_are_run(script):
  text = (ROOT / 'experiments' / f'{script}.py').read_text()
  assert len(text.splitlines()) < 100
  assert f'python -m experiments.{script} ' in text
