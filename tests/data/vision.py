"""torchvision's transforms of single images, where installed: oracles."""

import importlib

import numpy as np

from tests import oracles
from tests.oracles import torch

__all__ = ['from_torch', 'to_torch', 'torch', 'transforms']


def transforms():
  """Returns torchvision.transforms.v2; skips the test where it is absent."""
  oracles.torch_hub('torchvision')
  return importlib.import_module('torchvision.transforms.v2')


def to_torch(image):
  """Our (H, W, C) as their (C, H, W)."""
  return torch().from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def from_torch(image):
  """Their (C, H, W) as our (H, W, C)."""
  return image.numpy().transpose(1, 2, 0)
