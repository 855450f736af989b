"""ResNets for CIFAR compute what the published ones compute, and classify as well."""

import io
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from tests import oracles
from tljax import models, weights
from tljax.measures import scores

CLASSES = (
  'airplane',
  'automobile',
  'bird',
  'cat',
  'deer',
  'dog',
  'frog',
  'horse',
  'ship',
  'truck',
)
FOLDER = 'cifar10_resnets_torch/pretrained_models'


def block(inputs, width, stride):
  torch = oracles.torch()
  nn, functional = torch.nn, torch.nn.functional

  class Block(nn.Module):
    """Idelbayev's BasicBlock."""

    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
      self.bn1 = nn.BatchNorm2d(width)
      self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
      self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
      y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
      more = (width - inputs) // 2
      x = x[:, :, ::stride, ::stride]
      return functional.relu(y + functional.pad(x, (0, 0, 0, 0, more, more)))

  return Block()


def twin(depth):
  """Idelbayev's network with `depth` blocks a stage, for 1,000 classes."""
  nn = oracles.torch().nn
  network = nn.Sequential()
  network.add_module('conv1', nn.Conv2d(3, 16, 3, 1, 1, bias=False))
  network.add_module('bn1', nn.BatchNorm2d(16))
  network.add_module('relu', nn.ReLU())
  inputs = 16
  for i, width in enumerate((16, 32, 64)):
    strides = [1 if i == 0 else 2] + [1] * (depth - 1)
    blocks = []
    for stride in strides:
      blocks.append(block(inputs, width, stride))
      inputs = width
    network.add_module(f'layer{i + 1}', nn.Sequential(*blocks))
  network.add_module('pool', nn.AdaptiveAvgPool2d(1))
  network.add_module('flatten', nn.Flatten())
  network.add_module('linear', nn.Linear(64, 1000))
  return network


@pytest.mark.torch
@pytest.mark.parametrize('layers', [20, pytest.param(56, marks=pytest.mark.slow)])
def test_logits_are_the_twins(layers):
  name, module = f'cifar_resnet{layers}', twin((layers - 2) // 6)
  oracles.check_torch_parity(name, module, 'akamaster', (32, (29, 34)))


@pytest.mark.torch
def test_training_is_the_twins():
  oracles.check_torch_training('cifar_resnet20', twin(3), 'akamaster', 32)


@pytest.fixture(scope='module')
def cifar10(shared_data):
  """CIFAR-10's first 200 test images a class, as JPEGs; and their labels."""
  images, labels = [], []
  with zipfile.ZipFile(shared_data / 'cifar10_jpeg' / 'dev.zip') as archive:
    for name in sorted(archive.namelist()):
      if name.startswith('test/') and name.endswith('.jpg'):
        images.append(np.asarray(Image.open(io.BytesIO(archive.read(name)))))
        labels.append(CLASSES.index(name.split('/')[1]))
  return np.stack(images) / np.float32(255), np.array(labels)


@pytest.mark.parametrize(
  'file, measured',
  [('resnet20-12fca82f.th', 0.8135), ('resnet56-4bfd9763.th', 0.8315)],
)
def test_the_published_weights_classify(cifar10, shared_data, file, measured):
  name = f'cifar_{file.split("-")[0]}'
  variables = weights.load(name, shared_data / FOLDER / file)
  apply = jax.jit(models.create(name, 10).apply)
  images, labels = cifar10
  assert images.shape == (2000, 32, 32, 3)
  batches = [images[i : i + 500] for i in range(0, 2000, 500)]
  logits = np.concatenate([apply(variables, x)['logits'] for x in batches])
  assert scores.accuracy(logits, labels) == pytest.approx(measured, abs=2e-3)
