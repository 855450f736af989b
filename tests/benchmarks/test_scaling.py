"""The plan on paper: formulas by hand, and the file that is what the script writes."""

import pathlib

import jax
import numpy as np
import pytest

from benchmarks import scaling
from tljax import models

ROOT = pathlib.Path(__file__).parents[2]
NETWORK = scaling.Network('x', parameters=1e6, macs=1e9, activations=1e6)
CLUSTER = scaling.Cluster('y', 4, 1e12, 1e9, 1e9, 0.0, 0.5)


def test_by_hand():
  assert scaling.operations(NETWORK, 10) == 60e9
  assert scaling.compute_seconds(NETWORK, CLUSTER, 10) == 0.12
  assert scaling.reduced_bytes(NETWORK, 4) == 6e6
  assert scaling.sharded_bytes(NETWORK, 4) == 9e6
  assert scaling.seconds_of(6e6, CLUSTER) == 0.006
  assert scaling.efficiency(0.12, 0.12) == pytest.approx((0.5, 0.75))
  # 0.006 s of sum are hidden by two thirds of 0.009 s, three quarters of an image.
  assert scaling.breaking_point(NETWORK, CLUSTER) == pytest.approx(0.75)
  assert scaling.memory(NETWORK, 10, 8) == 12e6 / 8 + 4e6 + 20e6


@pytest.mark.parametrize(
  ('name', 'network'),
  [
    ('vit_base_patch16_224', scaling.NETWORKS[0]),
    ('resnet50', scaling.NETWORKS[1]),
  ],
)
def test_parameters_are_those_of_the_models(name, network):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  shapes = jax.eval_shape(models.create(name).init, jax.random.key(0), images)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  np.testing.assert_allclose(network.parameters, count, rtol=2e-3)


def test_the_file_is_what_the_script_writes():
  written = (ROOT / 'benchmarks' / 'scaling.md').read_text()
  assert written == '\n'.join(scaling.report()) + '\n'
