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


@pytest.fixture(scope='module')
def compile_fast():
  """These heads are tiny and compile for far longer than they compute."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
