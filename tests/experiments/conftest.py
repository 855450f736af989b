"""Scripts run in this process, and small folders of images and weights for them."""

import functools
import importlib
import signal
import sys
import types

import numpy as np
import pytest
import safetensors.numpy
import threadpoolctl
from PIL import Image
from sklearn import manifold

from experiments import cli, results
from tljax import sharding

MODES = ('RGB', 'L', 'RGBA', 'P', 'CMYK')


@pytest.fixture
def launch(monkeypatch, capsys, one_device):
  """Returns `(script, *argv) -> (status, out, err)`; a traceback is a failed test."""
  monkeypatch.setattr(sharding, 'data_mesh', lambda *_: one_device)
  # The fewest iterations that scikit-learn takes; and in one thread, for with a busy
  # neighbour its OpenMP threads wait for each other ten times as long as they work.
  monkeypatch.setattr(manifold, 'TSNE', functools.partial(manifold.TSNE, max_iter=250))
  before = signal.getsignal(signal.SIGTERM)

  def launch(script, *argv):
    module = importlib.import_module(f'experiments.{script}')
    monkeypatch.setattr(sys, 'argv', [f'{script}.py', *map(str, argv)])
    capsys.readouterr()
    status = 0
    try:
      cli.main(getattr(module, script), module.Flags)
    except SystemExit as stop:
      status = stop.code or 0
    return types.SimpleNamespace(status=status, **capsys.readouterr()._asdict())

  with threadpoolctl.threadpool_limits(1, user_api='openmp'):
    yield launch
  signal.signal(signal.SIGTERM, before)


@pytest.fixture
def trials(monkeypatch):
  """Collects what a script's trainings gave."""
  conclude, seen = results.conclude, {}

  def spy(run, trials, *args, **kwargs):
    seen.update(trials)
    return conclude(run, trials, *args, **kwargs)

  monkeypatch.setattr(results, 'conclude', spy)
  return seen


@pytest.fixture
def pets(tmp_path):
  """A folder of dark cats and bright dogs, of any size and mode."""
  rng = np.random.default_rng(0)
  for name, low in (('cat', 0), ('dog', 160)):
    (tmp_path / 'pets' / name).mkdir(parents=True)
    for i in range(10):
      pixels = rng.integers(low, low + 96, (20 + 3 * i, 50 - 2 * i, 3), np.uint8)
      mode = MODES[i % len(MODES)]
      suffix = 'jpg' if mode == 'CMYK' else 'png'
      image = Image.fromarray(pixels).convert(mode)
      image.save(tmp_path / 'pets' / name / f'{i}.{suffix}')
  return tmp_path / 'pets'


@pytest.fixture
def tables(pets):
  """Lists of the pets: how bright each is, and its classes."""
  rows, bright, tags = [], ['image,bright'], ['image,tags']
  for path in sorted(pets.rglob('*.*')):
    with Image.open(path) as image:
      rows.append((path.relative_to(pets), np.asarray(image.convert('L')).mean()))
  for name, mean in rows:
    bright.append(f'{name},{mean}')
    tags.append(f'{name},{"animal|bright" if mean > 128 else "animal"}')
  for name, lines in (('bright', bright), ('tags', tags)):
    (pets / f'{name}.csv').write_text('\n'.join(lines))
  return f'csv:{pets}/bright.csv?target=bright', f'csv:{pets}/tags.csv?labels=tags'


# Of torchvision's fire modules, by number in `features`: input, squeeze, expand.
FIRES = {
  3: (64, 16, 64),
  4: (128, 16, 64),
  6: (128, 32, 128),
  7: (256, 32, 128),
  9: (256, 48, 192),
  10: (384, 48, 192),
  11: (384, 64, 256),
  12: (512, 64, 256),
}


@pytest.fixture(scope='session')
def tensors():
  """Random SqueezeNet 1.1 weights of torchvision's names and shapes, of 5 classes.

  They are as large as He et al. (2015) draw them, so that features are of order 1.
  """
  shapes = {'features.0': (64, 3, 3, 3), 'classifier.1': (5, 512, 1, 1)}
  for number, (inputs, squeeze, expand) in FIRES.items():
    shapes[f'features.{number}.squeeze'] = (squeeze, inputs, 1, 1)
    shapes[f'features.{number}.expand1x1'] = (expand, squeeze, 1, 1)
    shapes[f'features.{number}.expand3x3'] = (expand, squeeze, 3, 3)
  rng = np.random.default_rng(0)
  tensors = {}
  for name, shape in shapes.items():
    kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    tensors[f'{name}.weight'] = kernel.astype(np.float32)
    tensors[f'{name}.bias'] = np.zeros(shape[0], np.float32)
  return tensors


@pytest.fixture
def squeezenet(tensors, tmp_path):
  """The file of these weights."""
  path = tmp_path / 'squeezenet.safetensors'
  safetensors.numpy.save_file(tensors, path)
  return path
