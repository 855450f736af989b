"""Memory stays bounded, however many images a folder holds."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import contextlib, resource, sys
import jax
jax.devices()

def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
from tljax import data
from tljax.data import batches
splits = data.load(f'folder:{sys.argv[1]}', data.Transform(64))
train = splits['train']
assert sum(map(len, splits.values())) == 100_000
stream = batches.stream(train, 500, 0)
with contextlib.closing(batches.read_ahead(stream, 0, len(train) // 500)) as ahead:
  count = sum(len(batch['label']) for batch in ahead)
assert count == len(train)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_folder_of_100_000_images_takes_less_than_a_gibibyte(tmp_path, paint):
  """Decoded they would take 1.2 GB, so they are decoded as they are used."""
  for name in 'ab':
    file = paint(tmp_path / 'set' / name / '0.png', (20, 20))
    for i in range(1, 50_000):  # a file has at most 65,000 names
      os.link(file, file.with_name(f'{i}.png'))
  ended = subprocess.run(
    [sys.executable, '-c', SCRIPT, tmp_path / 'set'],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    timeout=900,
  )
  assert ended.returncode == 0, ended.stderr
  assert int(ended.stdout) < 2**30
