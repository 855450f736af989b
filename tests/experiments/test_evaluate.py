"""The judgement of a trained network, and its page."""

import json

import numpy as np
import pytest

from experiments import trained
from tljax.checkpoint import Checkpoints
from tljax.data import loading
from tljax.run import Run

CNN = ('--model', 'cnn', '--batch-size', 4, '--image-size', 12, '--seeds', 1)


@pytest.fixture
def run(launch, pets, tmp_path):
  data, out = f'folder:{pets}', tmp_path / 'run'
  flags = ('--data', data, *CNN, '--epochs', 3, '--learning-rate', 0.01)
  assert launch('finetune', *flags, '--out', out).status == 0
  return out


def test_figures_are_of_the_split(launch, run, pets, tmp_path):
  out, train = tmp_path / 'judged', tmp_path / 'train'
  data = f'folder:{pets}'
  ended = launch('evaluate', '--run', run, '--data', data, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  network = trained.load(run)
  test = loading.load(data, network.transform)['test']
  logits = np.asarray(network.predict(np.float32(test.images) / 255))
  right = logits.argmax(-1) == test.labels
  assert result['accuracy'] == pytest.approx(right.mean())
  for k, name in enumerate(('cat', 'dog')):
    recall = right[test.labels == k].mean()
    assert result['classes'][name]['recall'] == pytest.approx(recall)
  records = Run(run).records()
  best = max(records, key=lambda r: (r['validation_accuracy'], r['step']))
  with Checkpoints(run / 'checkpoints' / best['run']) as checkpoints:
    assert checkpoints.best_step() == best['step']
  page = (out / 'report.html').read_text()
  assert page.count('data:image/png') == (2 if right.all() else 3)

  flags = ('--run', run, '--data', data, '--split', 'train', '--out', train)
  ended = launch('evaluate', *flags)
  assert ended.status == 0, ended.err
  whole = json.loads((train / 'result.json').read_text())
  assert sum(row['examples'] for row in whole['classes'].values()) == 12


def test_a_set_of_a_test_split_alone(launch, run, pets, tmp_path):
  files = sorted(path for path in pets.rglob('*.*'))
  rows = [f'{path.relative_to(tmp_path)},{path.parent.name},test' for path in files]
  (tmp_path / 'test.csv').write_text('\n'.join(['image,label,split', *rows]) + '\n')
  flags = (
    '--run',
    run,
    '--data',
    f'csv:{tmp_path}/test.csv',
    '--out',
    tmp_path / 'all',
  )
  ended = launch('evaluate', *flags)
  assert ended.status == 0, ended.err
  result = json.loads((tmp_path / 'all/result.json').read_text())
  assert sum(row['examples'] for row in result['classes'].values()) == len(files)
  ended = launch('evaluate', *flags, '--split', 'train')
  assert ended.status == 2 and "has no split 'train', but test" in ended.err


def test_sets_of_fewer_classes_and_of_others(launch, pets, tmp_path):
  """A network that may answer 'unknown' is judged by OS*, UNK and HOS too."""
  more = tmp_path / 'more'
  more.mkdir()
  for name, animal in (('cat', 'cat'), ('emu', 'dog'), ('fox', 'dog')):
    (more / name).symlink_to(pets / animal)
  run, judged = tmp_path / 'run', tmp_path / 'judged'
  flags = ('--source', f'folder:{pets}', '--target', f'folder:{more}', *CNN)
  flags += ('--setting', 'open', '--source-classes', 'cat', '--epochs', 2)
  ended = launch('adapt', *flags, '--method', 'osbp', '--out', run)
  assert ended.status == 0, ended.err
  ended = launch('evaluate', '--run', run, '--data', f'folder:{more}', '--out', judged)
  assert ended.status == 0, ended.err
  trained = json.loads((run / 'result.json').read_text())['strategies']['osbp']
  got = json.loads((judged / 'result.json').read_text())
  assert got['classes']['unknown']['examples'] > got['classes']['cat']['examples'] > 0
  for name in ('accuracy', 'os_star', 'unk', 'hos'):
    assert got[name] == pytest.approx(trained[name][0], abs=1e-6), name

  few, tuned = tmp_path / 'few', tmp_path / 'tuned'
  few.mkdir()
  for name in ('emu', 'fox'):
    (few / name).symlink_to(pets / 'dog')
  flags = ('--data', f'folder:{more}', *CNN, '--epochs', 1)
  assert launch('finetune', *flags, '--out', tuned).status == 0
  flags = ('--run', tuned, '--data', f'folder:{few}')
  ended = launch('evaluate', *flags, '--out', tmp_path / 'partial')
  assert ended.status == 0, ended.err
  got = json.loads((tmp_path / 'partial/result.json').read_text())
  assert got['classes']['cat']['examples'] == 0
  rows = [got['classes'][name] for name in ('emu', 'fox')]
  right = sum(row['recall'] * row['examples'] for row in rows)
  assert right == pytest.approx(got['accuracy'] * sum(row['examples'] for row in rows))


def test_evidence_is_a_map_of_each_image(run):
  network = trained.load(run)
  images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
  maps = network.evidence(images, np.array([0, 1, 0]))
  assert maps.shape[0] == 3 and maps.ndim == 3 and np.isfinite(maps).all()


def test_mistakes_are_shown_with_their_evidence(launch, run, pets, tmp_path):
  """Of a set whose labels are swapped, all that was right is wrong."""
  swapped = tmp_path / 'swapped'
  swapped.mkdir()
  (swapped / 'cat').symlink_to(pets / 'dog')
  (swapped / 'dog').symlink_to(pets / 'cat')
  pages = []
  for data in (pets, swapped):
    out = tmp_path / f'{data.name}-judged'
    ended = launch('evaluate', '--run', run, '--data', f'folder:{data}', '--out', out)
    assert ended.status == 0, ended.err
    pages.append('alt="Mistakes"' in (out / 'report.html').read_text())
  assert any(pages)


def test_the_best_is_put_to_use_where_that_is_asked(
  launch, run, pets, tmp_path, monkeypatch
):
  read, restore_part = [], Checkpoints.restore_part
  monkeypatch.setattr(Checkpoints, 'best_step', lambda _: 8)
  monkeypatch.setattr(
    Checkpoints,
    'restore_part',
    lambda self, like, step: read.append(step) or restore_part(self, like, step),
  )
  for flags in ((), ('--best',)):
    flags = ('--data', f'folder:{pets}', *flags, '--out', tmp_path / f'judged{flags}')
    ended = launch('evaluate', '--run', run, *flags)
    assert ended.status == 0, ended.err
  assert read == [9, 8]


def test_bad_input_is_one_line(launch, run, pets, tmp_path):
  def refused(match, *flags):
    ended = launch('evaluate', '--run', run, *flags, '--out', tmp_path / 'judged')
    assert ended.status == 2 and match in ended.err, ended.err
    assert len(ended.err.splitlines()) == 1

  refused("no split 'dev'", '--data', f'folder:{pets}', '--split', 'dev')
  (pets / 'cat').rename(pets / 'cow')
  refused("does not know class 'cow'", '--data', f'folder:{pets}')


@pytest.fixture
def extracted(launch, pets, squeezenet, tmp_path):
  """Returns `(header, row, spec, head) -> (run, data)`, of a head on features."""

  def extract(header, row, spec, head):
    table, run = tmp_path / 'pets.csv', tmp_path / head
    files = sorted(pets.rglob('*.*'))
    table.write_text('\n'.join([header, *(f'{f},{row(f.parent.name)}' for f in files)]))
    data = f'csv:{table}?{spec}'
    flags = ('--data', data, '--model', 'squeezenet1_1', '--image-size', 33)
    flags += ('--weights', squeezenet, '--head', head, '--seeds', 1, '--out', run)
    ended = launch('extract', *flags)
    assert ended.status == 0, ended.err
    return run, data

  return extract


def judged(launch, run, data, out):
  ended = launch('evaluate', '--run', run, '--data', data, '--out', out)
  assert ended.status == 0, ended.err
  network = trained.load(run)
  splits = loading.load(data, network.transform)
  test = splits.get('test', splits['validation'])
  outputs = np.asarray(network.predict(np.float32(test.images) / 255))
  page = (out / 'report.html').read_text()
  return json.loads((out / 'result.json').read_text()), outputs, test.labels, page


def test_a_regression_is_judged_by_its_errors(launch, extracted, pets, tmp_path):
  run, data = extracted(
    'image,light', lambda k: f'{3.0 if k == "dog" else 1.0}', 'target=light', 'ridge'
  )
  result, outputs, targets, page = judged(launch, run, data, tmp_path / 'judged')
  error = np.abs(outputs[:, 0] - targets.reshape(-1)).mean()
  assert result['mae'] == pytest.approx(error, rel=1e-4)
  assert 'alt="Predictions"' in page and 'alt="Mistakes"' in page
  other = ('--data', f'folder:{pets}', '--out', tmp_path / 'other')
  ended = launch('evaluate', '--run', run, *other)
  assert ended.status == 2 and 'have one class, and' in ended.err, ended.err
  table = tmp_path / 'two.csv'
  rows = (f'{file},1.0,2.0' for file in pets.rglob('*.*'))
  table.write_text('\n'.join(['image,light,hue', *rows]))
  other = ('--data', f'csv:{table}?target=light,hue', '--out', tmp_path / 'other')
  ended = launch('evaluate', '--run', run, *other)
  assert ended.status == 2 and '2 targets, and the network gives 1' in ended.err
  assert not (tmp_path / 'other').exists()


def test_several_classes_are_judged_each(launch, extracted, pets, tmp_path):
  classes = {'cat': 'pet|dark', 'dog': 'pet'}
  run, data = extracted('image,labels', classes.get, 'labels=labels', 'logistic')
  result, logits, labels, page = judged(launch, run, data, tmp_path / 'judged')
  exact = np.all((logits > 0) == labels, -1).mean()
  assert result['exact'] == pytest.approx(exact)
  for k, name in enumerate(trained.load(run).classes):
    found = np.mean(logits[labels[:, k], k] > 0)
    assert result['classes'][name]['recall'] == pytest.approx(found)
  assert ('alt="Mistakes"' in page) == (exact < 1)
  (pets / 'cat').rename(pets / 'pet')
  (pets / 'dog').rename(pets / 'dark')
  other = ('--data', f'folder:{pets}', '--out', tmp_path / 'other')
  ended = launch('evaluate', '--run', run, *other)
  assert ended.status == 2 and 'have one class, and' in ended.err, ended.err
