"""Two processes see the batches that one sees, augmentation included."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import sys
import jax, numpy as np
index, count, port, out = sys.argv[1:]
if int(count) > 1:
  jax.distributed.initialize(f'127.0.0.1:{port}', int(count), int(index))
from jax.experimental import multihost_utils
from tljax import data, sharding
from tljax.data import augment, batches

mesh = sharding.data_mesh()
assert mesh.size == 4
digits = data.load('digits', data.Transform(8))['train']
target = data.load('digits-m', data.Transform(8))['train']
stream = batches.pair(
  batches.stream(digits, 16, 3, augment.flip, balanced=True),
  batches.stream(target, 8, 4, augment.invert_contrast),
)
seen = {}
for step in (0, 1, 70):
  part = stream.read(step)
  assert len(part['source']['image']) == 16 // int(count)
  batch = stream.finish(sharding.shard_batch(part, mesh), np.uint32(step))
  batch = multihost_utils.process_allgather(batch, tiled=True)
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    seen[f'{step} {jax.tree_util.keystr(path)}'] = np.asarray(leaf)
np.savez(f'{out}/{count}-{index}.npz', **seen)
"""


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def start(index, count, port, out):
  flags = os.environ['XLA_FLAGS'].replace('=8', f'={4 // count}')
  environment = {**os.environ, 'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-c', SCRIPT, *map(str, (index, count, port, out))]
  return subprocess.Popen(
    command,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.parametrize('count', [2])
def test_one_process_and_several_see_the_same_batches(tmp_path, count):
  port = free_port()
  jobs = [start(0, 1, port, tmp_path)]
  jobs += [start(i, count, port, tmp_path) for i in range(count)]
  try:
    for job in jobs:
      output, _ = job.communicate(timeout=120)
      assert job.returncode == 0, output
  finally:
    for job in jobs:
      job.kill()
  whole, *parts = (
    np.load(tmp_path / f'{name}.npz')
    for name in ('1-0', *(f'{count}-{i}' for i in range(count)))
  )
  assert len(whole.files) == 9
  for part in parts:
    for name in whole.files:
      np.testing.assert_array_equal(part[name], whole[name], err_msg=name)
