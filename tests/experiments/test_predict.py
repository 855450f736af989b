"""Predictions of trained networks on image files."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import trained
from tljax import models
from tljax.checkpoint import Checkpoints
from tljax.data import Transform, loading
from tljax.models import Linear
from tljax.models.bottleneck import Bottleneck
from tljax.run import Run

CNN = ('--model', 'cnn', '--batch-size', 4, '--image-size', 12, '--seeds', 1)


@pytest.fixture
def run(launch, pets, tmp_path):
  data, out = f'folder:{pets}', tmp_path / 'run'
  flags = ('--data', data, *CNN, '--epochs', 12, '--learning-rate', 0.01)
  assert launch('finetune', *flags, '--out', out).status == 0
  return out


def test_predictions_are_the_networks(launch, run, pets, tmp_path):
  table, listing = tmp_path / 'out.csv', tmp_path / 'out.json'
  for out in (table, listing):
    ended = launch('predict', '--run', run, '--images', pets, '--out', out)
    assert ended.status == 0, ended.err
  rows = json.loads(listing.read_text())
  assert len(rows) == 20
  assert [row['image'] for row in rows] == [
    str(path) for path in sorted(pets.rglob('*.*'))
  ]

  source = loading.read(f'folder:{pets}')['all']
  dataset, _ = loading.decode(source, Transform(12, 12), False, True)
  network = trained.load(run)
  logits = np.asarray(network.predict(np.float32(dataset.images) / 255))
  wanted = {
    source.name(i): np.asarray(jax.nn.softmax(row)) for i, row in enumerate(logits)
  }
  for row in rows:
    p = wanted[row['image']]
    np.testing.assert_allclose([row['p(cat)'], row['p(dog)']], p, rtol=1e-4)
    assert row['class'] == ('cat', 'dog')[p.argmax()]
    np.testing.assert_allclose(row['confidence'], p.max(), rtol=1e-4)
  right = [row['class'] in row['image'] for row in rows]
  assert np.mean(right) > 0.75  # cats are dark, dogs are bright

  with open(table, newline='') as file:
    columns = list(csv.DictReader(file))
  assert [row['image'] for row in columns] == [row['image'] for row in rows]
  for ours, theirs in zip(columns, rows, strict=True):
    assert ours['class'] == theirs['class']
    assert float(ours['p(dog)']) == theirs['p(dog)']


def test_an_adapted_network_from_published_weights(
  launch, trials, pets, squeezenet, tmp_path
):
  domain, run = f'folder:{pets}', tmp_path / 'run'
  flags = ('--source', domain, '--target', domain, '--weights', squeezenet)
  flags += ('--image-size', 33, '--batch-size', 4, '--epochs', 1, '--seeds', 1)
  ended = launch('adapt', '--method', 'coral', *flags, '--out', run)
  assert ended.status == 0, ended.err
  images = np.random.default_rng(0).random((3, 33, 33, 3), np.float32)
  variables = trials['coral'][0].state.variables
  model = models.create('squeezenet1_1').clone(head=Linear(2), bottleneck=Bottleneck())
  wanted = model.apply(variables, images)['logits']
  np.testing.assert_allclose(trained.load(run).predict(images), wanted, rtol=1e-5)


def test_any_strategy_of_a_run(launch, pets, tmp_path):
  domain, run = f'folder:{pets}', tmp_path / 'run'
  flags = ('--source', domain, '--target', domain, *CNN, '--epochs', 1)
  assert launch('adapt', *flags, '--out', run).status == 0
  images = np.random.default_rng(0).random((3, 12, 12, 3), np.float32)
  networks = {s: trained.load(run, s) for s in ('source_only', 'dann', None)}
  logits = {s: np.asarray(n.predict(images)) for s, n in networks.items()}
  assert not np.array_equal(logits['source_only'], logits['dann'])
  np.testing.assert_array_equal(logits[None], logits['dann'])
  assert networks[None].name == 'dann-0'
  for name in ('source_only-0', 'dann-0'):  # without a label of the target
    records = Run(run).records(name)
    best = max(records, key=lambda r: (r['validation_infomax'], r['step']))
    with Checkpoints(run / 'checkpoints' / name) as checkpoints:
      assert checkpoints.best_step() == best['step']
  out = tmp_path / 'out.json'
  ended = launch(
    'predict', '--run', run, '--strategy', 'cdan', '--images', pets, '--out', out
  )
  assert ended.status == 2 and 'choose one of source_only, dann' in ended.err


def test_bad_input_is_one_line_and_nothing_is_written(launch, run, pets, tmp_path):
  out = tmp_path / 'out.csv'
  broken = pets / 'cat' / 'broken.png'
  broken.write_bytes(b'no image')
  good = pets / 'cat' / '0.png'

  def refused(match, *flags, out=out):
    ended = launch('predict', '--out', out, *flags)
    assert ended.status == 2 and match in ended.err, ended.err
    assert len(ended.err.splitlines()) == 1

  refused('broken.png', '--run', run, '--images', pets)
  refused('no run folder', '--run', pets, '--images', good)
  refused('there is no image', '--run', run, '--images', pets / 'cow')
  refused('there is no image', '--run', run, '--images', run)
  refused('.csv or .json', '--run', run, '--images', good, out=tmp_path / 'out.txt')
  assert not out.exists()
  (out).write_text('mine')
  refused('exists', '--run', run, '--images', good)
  assert out.read_text() == 'mine'

  other = tmp_path / 'other.csv'
  ended = launch(
    'predict', '--run', run, '--images', pets, '--skip-corrupt', '--out', other
  )
  assert ended.status == 0 and f'left out {broken}' in ended.err
  assert len(other.read_text().splitlines()) == 21


def test_a_single_file_and_any_mode(launch, run, tmp_path):
  path, out = tmp_path / 'grey.bmp', tmp_path / 'out.json'
  Image.fromarray(np.full((30, 50), 250, np.uint8)).save(path)
  assert launch('predict', '--run', run, '--images', path, '--out', out).status == 0
  (row,) = json.loads(out.read_text())
  assert row['class'] == 'dog' and 0.5 < row['confidence'] <= 1


@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_a_head_on_extracted_features_predicts_with_its_backbone(
  launch, pets, squeezenet, tmp_path
):
  run, out = tmp_path / 'run', tmp_path / 'out.json'
  flags = ('--data', f'folder:{pets}', '--model', 'squeezenet1_1', '--image-size', 33)
  flags += ('--weights', squeezenet, '--head', 'logistic', '--seeds', 1)
  ended = launch('extract', *flags, '--out', run)
  assert ended.status == 0, ended.err
  assert launch('predict', '--run', run, '--images', pets, '--out', out).status == 0
  rows = json.loads(out.read_text())
  assert np.mean([row['class'] in row['image'] for row in rows]) > 0.75


def test_a_regression_predicts_targets(launch, pets, squeezenet, tmp_path):
  run, out, table = tmp_path / 'run', tmp_path / 'out.csv', tmp_path / 'pets.csv'
  files = sorted(pets.rglob('*.*'))
  lines = [f'{f},{1.0 if f.parent.name == "dog" else -1.0}' for f in files]
  table.write_text('\n'.join(['file,brightness', *lines]))
  data = f'csv:{table}?image=file&target=brightness'
  flags = ('--data', data, '--model', 'squeezenet1_1', '--image-size', 33)
  flags += ('--weights', squeezenet, '--head', 'ridge', '--seeds', 1)
  ended = launch('extract', *flags, '--out', run)
  assert ended.status == 0, ended.err
  ended = launch('predict', '--run', run, '--images', pets, '--out', out)
  assert ended.status == 0, ended.err
  with open(out, newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 20
  right = [(float(r['target 0']) > 0) == ('dog' in r['image']) for r in rows]
  assert np.mean(right) > 0.75


def test_several_classes_of_an_image(launch, pets, squeezenet, tmp_path):
  run, out, table = tmp_path / 'run', tmp_path / 'out.json', tmp_path / 'pets.csv'
  files = sorted(pets.rglob('*.*'))
  tags = {'dog': 'animal|bright', 'cat': 'animal'}
  lines = [f'{f},{tags[f.parent.name]}' for f in files]
  table.write_text('\n'.join(['file,tags', *lines]))
  data = f'csv:{table}?labels=tags'
  flags = ('--data', data, '--model', 'squeezenet1_1', '--image-size', 33)
  flags += ('--weights', squeezenet, '--seeds', 1, '--out', run)
  ended = launch('extract', *flags, '--head', 'logistic')
  assert ended.status == 0, ended.err
  result = json.loads((run / 'result.json').read_text())
  assert result['mean_average_precision'] > 0.9 and 'mean average' in ended.out
  ended = launch('predict', '--run', run, '--images', pets, '--out', out)
  assert ended.status == 0, ended.err
  rows = json.loads(out.read_text())
  wanted = [tags['dog' if 'dog' in row['image'] else 'cat'] for row in rows]
  said = [row['classes'] for row in rows]
  assert np.mean([a == b for a, b in zip(said, wanted, strict=True)]) > 0.75
  assert all(0 <= row['p(bright)'] <= 1 for row in rows)
  ended = launch('adapt', *('--source', data, '--target', data), '--out', run)
  assert ended.status == 2 and 'several classes; finetune and' in ended.err
