"""Methods of fine-tuning by name, their options, and what would train."""

import dataclasses
import json
import re

import jax
import numpy as np
import optax
import pytest

from tljax import data as data_sets
from tljax import finetuning, models, train, weights
from tljax.checkpoint import Checkpoints
from tljax.data import Transform
from tljax.data import load as load_data
from tljax.finetuning import lora, summary

CNN = ('--model', 'cnn', '--batch-size', 4, '--image-size', 8, '--seeds', 1)


@pytest.fixture
def created(monkeypatch):
  """Collects the options that methods were made with."""
  create, seen = finetuning.create, []

  def spy(name, model, optimizer, **options):
    seen.append((name, optimizer, options))
    return create(name, model, optimizer, **options)

  monkeypatch.setattr(finetuning, 'create', spy)
  return seen


def test_lora_saves_what_its_prediction_needs(launch, pets, tmp_path, trials):
  out, data = tmp_path / 'run', f'folder:{pets}'
  flags = ('--data', data, *CNN, '--epochs', 2, '--learning-rate', 0.01)
  ended = launch('finetune', *flags, '--method', 'lora', '--out', out)
  assert ended.status == 0, ended.err
  (trial,) = trials['lora']
  with Checkpoints(out / 'checkpoints' / 'lora-0') as checkpoints:
    state = checkpoints.restore(like=trial.state)
  model = models.create('cnn').clone(head=models.Linear(2))
  images = load_data(data, Transform(8, 8))['test'].images
  logits = train.predictor(lora.method(model, optax.sgd(0.1)))(state, images)
  np.testing.assert_allclose(logits, trial.logits, rtol=1e-5, atol=1e-5)
  merged = model.apply(lora.merge(state.variables), np.float32(images) / 255)['logits']
  np.testing.assert_allclose(merged, trial.logits, rtol=1e-4, atol=1e-4)


def test_rates_and_strength_go_to_the_method(launch, pets, tmp_path, created):
  flags = ('--data', f'folder:{pets}', *CNN, '--epochs', 1, '--learning-rate', 0.01)
  flags += ('--weight-decay', 0.1, '--layer-decay', 0.5, '--backbone-rate', 0.2)
  flags += ('--method', 'bss', '--options', 'strength=0.3')
  ended = launch('finetune', *flags, '--out', tmp_path / 'run')
  assert ended.status == 0, ended.err
  ((name, optimizer, options),) = created
  assert (name, options) == ('bss', {'strength': 0.3})
  one = {'kernel': np.ones(1, np.float32), 'bias': np.ones(1, np.float32)}
  params = {'backbone': {'stage2': one}, 'head': {'classifier': one}}
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  for tree, rate in (
    (updates['backbone']['stage2'], 0.01 * 0.5**2 * 0.2),
    (updates['head']['classifier'], 0.01),
  ):
    np.testing.assert_allclose(tree['kernel'], -rate * 1.1, rtol=1e-4)
    np.testing.assert_allclose(tree['bias'], -rate, rtol=1e-4)


@pytest.mark.parametrize('shots', [1, 3])
def test_co_tuning_has_the_pretrained_classifier(
  launch, pets, squeezenet, tmp_path, created, monkeypatch, shots
):
  """And a relationship of each seed's own few examples, and of no others."""
  monkeypatch.setattr(summary, 'memory', lambda *_: {})  # which compiles the step
  flags = ('--data', f'folder:{pets}', '--weights', squeezenet, '--image-size', 33)
  flags += ('--method', 'co_tuning', '--seeds', 2, '--batch-size', 2, '--shots', shots)
  flags += ('--dry-run', '--out', tmp_path / 'run')
  ended = launch('finetune', *flags)
  assert ended.status == 0, ended.err

  def mislabelled(*args, **options):
    splits = load_data(*args, **options)
    other = splits['validation']
    other = dataclasses.replace(other, labels=1 - other.labels)
    return splits | {'validation': other}

  monkeypatch.setattr(data_sets, 'load', mislabelled)
  assert launch('finetune', *flags).status == 0
  head = weights.load('squeezenet1_1', squeezenet)['params']['head']
  tables = []
  for name, _, options in created:
    assert name == 'co_tuning' and set(options) == {'source_head', 'relationship'}
    jax.tree.map(np.testing.assert_array_equal, options['source_head'][1], head)
    table = options['relationship']
    assert table.shape == (2, 5)
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-6)
    tables.append(table)
  assert not np.array_equal(*tables[:2])
  np.testing.assert_array_equal(tables[2:], tables[:2])
  assert len(tables) == 4
  assert 'source_head' in ended.out  # as a part that trains


def test_a_dry_run_trains_and_writes_nothing(launch, pets, tmp_path, trials):
  flags = ('--data', f'folder:{pets}', *CNN, '--epochs', 1, '--dry-run')
  flags += ('--freeze', 'backbone/stage[12]/.*', '--layer-decay', 0.5)
  ended = launch('finetune', *flags, '--out', tmp_path / 'run')
  assert ended.status == 0
  # Without weights what is frozen is no knowledge, which is said.
  assert ended.err.count('\n') == 1 and 'near is random' in ended.err
  lines = [line.split() for line in ended.out.splitlines()]
  rows = {line[1]: line[3::2] for line in lines if len(line) > 7 and line[0] == '│'}
  assert rows == {
    'backbone/stage1': ['464', '0', '0'],
    'backbone/stage2': ['4,672', '0', '0'],
    'backbone/stage3': ['18,560', '18,560', '5e-05'],
    'head': ['130', '130', '0.0001'],
  }
  assert 'MiB' in ended.out
  assert not trials and not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    (('--method', 'magic'), "method 'magic' is unknown; choose one of .*co_tuning"),
    (('--method', 'labels'), "method 'labels' is unknown"),
    (('--method', 'lora', '--options', 'depth=1'), "'depth=1': .* it has rank=8"),
    (('--method', 'bi_tuning', '--weights', 'none.pth'), 'there is no such file'),
  ],
)
def test_what_does_not_fit_is_one_line(launch, pets, tmp_path, flags, named):
  data = ('--data', f'folder:{pets}', *CNN, '--epochs', 1, '--out', tmp_path / 'run')
  ended = launch('finetune', *data, *flags)
  assert ended.status == 2 and ended.err.count('\n') == 1
  assert re.search(named, ended.err)
  assert not (tmp_path / 'run').exists()


def judged_again(launch, run, data, out):
  """What `evaluate` finds of the test split, by the network as the run saved it."""
  ended = launch('evaluate', '--run', run, '--data', data, '--out', out)
  assert ended.status == 0, ended.err
  return json.loads((out / 'result.json').read_text())


@pytest.mark.parametrize('method', ['plain', 'lora'])
def test_a_regression(launch, tables, tmp_path, trials, method):
  out, data = tmp_path / 'run', tables[0]
  flags = ('--data', data, *CNN, '--epochs', 40, '--learning-rate', 0.01)
  ended = launch('finetune', *flags, '--method', method, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  test = load_data(data, Transform(8, 8))['test']
  (trial,) = next(iter(trials.values()))
  error = np.abs(trial.logits[:, 0] - test.labels).mean()  # in the targets' unit
  assert result['mae'] == pytest.approx(error, rel=1e-5) and result['r2'] > 0.8
  assert 'validation_r2' in trial.records[-1]
  again = judged_again(launch, out, data, tmp_path / 'again')
  assert again['mae'] == pytest.approx(error, rel=1e-4)


def test_several_classes_of_an_image(launch, tables, tmp_path):
  out, data = tmp_path / 'run', tables[1]
  flags = ('--data', data, *CNN, '--epochs', 20, '--learning-rate', 0.01)
  ended = launch('finetune', *flags, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert result['exact'] == 1
  again = judged_again(launch, out, data, tmp_path / 'again')
  assert again['exact'] == 1 and list(again['classes']) == ['animal', 'bright']


def test_what_is_for_one_class_an_image(launch, tables, tmp_path):
  for data, has in zip(tables, ('targets of a regression', 'any number'), strict=True):
    for flags in (('--method', 'bi_tuning'), ('--mix', 'both')):
      ended = launch('finetune', '--data', data, *CNN, *flags, '--out', tmp_path / 'no')
      assert ended.status == 2 and ' '.join(flags) in ended.err
      assert f'these have {has}' in ended.err and len(ended.err.splitlines()) == 1
  assert not (tmp_path / 'no').exists()
