"""A tiny pretrained network."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope='session')
def variables(model):
  """Of the tiny network; statistics unlike the batch's tell evaluation mode apart."""
  drawn = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  statistics = jax.tree.map(lambda leaf: leaf + 0.5, drawn['batch_stats'])
  return {**drawn, 'batch_stats': statistics}
