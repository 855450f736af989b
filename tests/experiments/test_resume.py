"""A run that was interrupted, then killed, ends as one that was left alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tljax.run import Run

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 43  # 539 images, 5 epochs, 64 a batch


class Job:
  """An adaptation in a process of its own."""

  def __init__(self, out):
    command = [sys.executable, '-m', 'experiments.adapt', '--out', str(out), '--resume']
    command += ['--source', 'digits', '--target', 'digits-m', '--model', 'cnn']
    command += ['--seeds', '1', '--epochs', '5', '--batch-size', '64']
    self._out = out
    self._process = subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=ROOT,
      # One device, as a user has.
      env={**os.environ, 'XLA_FLAGS': os.environ['XLA_FLAGS'].replace('=8', '=1')},
    )

  def stop(self, name, number):
    """Sends the signal once the training `name` has saved a checkpoint."""
    folder = self._out / 'checkpoints' / name
    deadline = time.monotonic() + 120
    while not any(path.name.isdigit() for path in folder.glob('*')):
      assert self._process.poll() is None and time.monotonic() < deadline
      time.sleep(0.005)
    self._process.send_signal(number)
    return self.end()

  def end(self):
    _, errors = self._process.communicate(timeout=120)
    # Progress is said every ten seconds, so a busy machine may say some.
    lines = [line for line in errors.splitlines() if 'steps/s' not in line]
    return self._process.returncode, lines


@pytest.fixture
def job():
  """Starts a `Job`, and kills it when the test ends, however that is."""
  jobs = []

  def start(out):
    jobs.append(Job(out))
    return jobs[-1]

  yield start
  for started in jobs:
    started._process.kill()
    started._process.communicate()


def figures(out):
  """The run's figures, without the seconds."""
  result = json.loads((out / 'result.json').read_text())
  records = sorted(Run(out).records(), key=lambda r: (r['run'], r['step']))
  for timed in [*result['strategies'].values(), *records]:
    assert timed.pop('seconds') > 0
  return result, records


def test_interrupted_and_killed_it_ends_as_if_left_alone(job, tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  undisturbed = job(whole)
  status, errors = job(cut).stop('source_only-0', signal.SIGINT)
  assert status == 130
  (line,) = errors
  assert 'interrupted' in line and '--resume' in line
  status, errors = job(cut).stop('dann-0', signal.SIGKILL)
  assert (status, errors) == (-signal.SIGKILL, [])
  assert not (cut / 'result.json').exists()
  steps = [record['step'] for record in Run(cut).records()]
  assert steps.count(STEPS) == 1  # of the first training; the second was cut short
  assert job(cut).end() == (0, [f'wrote {cut / "report.html"}'])
  assert undisturbed.end() == (0, [f'wrote {whole / "report.html"}'])
  assert figures(cut) == figures(whole)
  assert [r['step'] for r in figures(cut)[1]].count(STEPS) == 2
  assert (cut / 'report.html').exists()
