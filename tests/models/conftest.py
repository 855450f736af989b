"""Photographs with their classes of ImageNet."""

import json

import numpy as np
import pytest

from tljax.data import images


@pytest.fixture(scope='session')
def photographs(shared_data):
  """Returns `resize -> a hundred photographs (100, 224, 224, 3) in [0, 1] and their
  classes (100,)`, cropped after the shorter side is resized.
  """
  folder = shared_data / 'imagenet_samples'
  index = json.loads((folder / 'imagenet_class_index.json').read_text())
  classes = {name: int(k) for k, (name, _) in index.items()}
  files = sorted(folder.glob('*.JPEG'))
  labels = np.array([classes[file.name.split('_')[0]] for file in files])
  assert len(labels) == 100

  def load(resize):
    pixels = np.stack([images.read(file, 224, resize) for file in files])
    return pixels / np.float32(255), labels

  return load
