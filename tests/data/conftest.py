"""Small images on disk."""

import numpy as np
import pytest
from PIL import Image

from tljax.data import images


@pytest.fixture
def paint():
  """Returns `(path, size, mode, seed)`, which writes an image of random pixels."""

  def paint(path, size=(9, 7), mode='RGB', seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path

  return paint


@pytest.fixture
def blocks(monkeypatch):
  """How many images the threads are given at once, each time."""
  given = []

  class Threads:
    def map(self, function, indices):
      given.append(len(indices))
      return map(function, indices)

  monkeypatch.setattr(images, 'threads', Threads)
  return given


@pytest.fixture
def pets(tmp_path, paint):
  """A folder of ten cats and ten dogs."""
  for k, name in enumerate(('cat', 'dog')):
    for i in range(10):
      paint(tmp_path / 'pets' / name / f'{i}.png', seed=10 * k + i)
  return tmp_path / 'pets'
