"""The ratios, what is refused, and that Keras has the same head to train."""

import json
import signal
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import features
from experiments import cli
from tljax.data.dataset import Dataset
from tljax.errors import InputError


def test_ratios():
  figures = {
    name: {'wall': wall, 'processor': 2 * wall}
    for name, wall in {
      'extract': 8.0,
      'linear': 1.0,
      'linear_sweep': 3.0,
      'mlp': 2.0,
      'keras': 90.0,
    }.items()
  }
  wanted = {
    'keras_over_tljax': 9.0,
    'linear_sweep_over_one': 3.0,
    'linear_sweep_over_one_with_extraction': 1.22,
  }
  found = features.ratios({'images': 4, **figures})
  assert found == {'ratios_wall': wanted, 'ratios_processor': wanted}


def test_seconds_waits_for_the_result_and_returns_it():
  spent, result = features.seconds(lambda x: jax.numpy.ones(3) * x, 2.0)
  np.testing.assert_array_equal(result, [2, 2, 2])
  assert spent['wall'] >= 0 and spent['processor'] >= 0


def test_it_overwrites_nothing(tmp_path):
  out = tmp_path / 'figures.json'
  out.write_text('measured long ago')
  with pytest.raises(InputError, match='figures.json exists; choose another --out'):
    features.features(features.Flags(data=tmp_path, out=out))
  assert out.read_text() == 'measured long ago'


@pytest.mark.slow
@pytest.mark.keras
def test_keras_trains_the_same_head():
  pytest.importorskip('keras')
  images = np.zeros((4, 32, 32, 3), np.uint8)
  dataset = Dataset(images, np.int32([0, 1, 2, 0]), ('a', 'b', 'c'))
  recipe = features.Recipe(features.Flags(data='', epochs=1, batch_size=2), dataset)
  ours = recipe.fit(recipe.mlp(), recipe.extract())
  model = recipe.keras()
  theirs = recipe.fit_keras(model, np.float32(images))
  shapes = sorted(leaf.shape for leaf in jax.tree.leaves(ours))
  assert shapes == sorted(v.shape for v in model.trainable_variables)
  assert theirs.shape == ours['head']['fc1']['kernel'].shape
  assert model.count_params() == sum(
    leaf.size
    for part in (recipe._variables['params']['backbone'], ours)
    for leaf in jax.tree.leaves(part)
  )


@pytest.mark.slow
def test_in_miniature(monkeypatch, capsys, tmp_path):
  out, pets = tmp_path / 'figures.json', tmp_path / 'pets'
  for i, name in enumerate(['cat', 'dog'] * 2):
    (pets / name).mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (40, 40), (60 * i,) * 3).save(pets / name / f'{i}.png')
  flags = ('--data', pets, '--size', 32, '--epochs', 1, '--batch-size', 2)
  monkeypatch.setattr(sys, 'argv', ['features.py', *map(str, flags), '--out', str(out)])
  before = signal.getsignal(signal.SIGTERM)
  cli.main(features.features, features.Flags)
  signal.signal(signal.SIGTERM, before)
  written = json.loads(out.read_text())
  assert written['images'] == 4 and written['jax'] == jax.__version__
  for name in ('extract', 'linear', 'linear_sweep', 'mlp'):
    assert written[name]['wall'] > 0
  assert 'linear_sweep' in capsys.readouterr().out
