"""The launchers: linted, tried on stand-ins of the clusters' commands, and parsed."""

import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tyro
import yaml

from experiments import adapt, cli

LAUNCH = pathlib.Path(__file__).parents[2] / 'experiments' / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))


@pytest.fixture
def run(tmp_path):
  """Returns `(script, *argv, status) -> (status, calls)` with stand-ins on the path."""
  log = tmp_path / 'calls'

  def run(script, *argv, status=0, **environment):
    for name in ('gcloud', 'srun', 'scontrol', 'git'):
      path = tmp_path / name
      path.write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\nexit {status}\n')
      path.chmod(0o755)
    found = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', **environment}
    done = subprocess.run([LAUNCH / script, *argv], env=found, timeout=20)
    return done.returncode, log.read_text() if log.exists() else ''

  return run


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
  name = shutil.which('shellcheck', path=pathlib.Path(sys.executable).parent)
  if name is None:
    pytest.skip('shellcheck is absent')
  done = subprocess.run([name, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
  ('job', 'said'),
  [
    (['create'], 'queued-resources create pod --node-id=pod --zone=z'),
    (['copy'], 'tpu-vm scp /tmp/tljax.tar.gz pod: --zone=z --worker=all'),
    (['run', 'adapt', '--out', '/a b'], r'-m experiments.adapt --out /a\ b  --resume'),
    (['delete'], 'queued-resources delete pod'),
  ],
)
def test_tpu(run, job, said):
  status, calls = run('tpu.sh', *job, NAME='pod', ZONE='z')
  assert status == 0 and said in calls


def test_tpu_of_another_job(run):
  assert run('tpu.sh', 'fly', NAME='pod', ZONE='z') == (2, '')


@pytest.mark.parametrize(('status', 'requeued'), [(0, False), (75, True), (2, False)])
def test_slurm_starts_again_what_was_preempted(run, status, requeued):
  ended, calls = run('slurm.sh', 'adapt', '--x', status=status, SLURM_JOB_ID='7')
  assert ended == status and '-m experiments.adapt --x --resume' in calls
  assert ('scontrol requeue 7' in calls) == requeued


@pytest.fixture
def jobset():
  return yaml.safe_load((LAUNCH / 'jobset.yaml').read_text())


def test_jobset_is_one(jobset):
  """By the fields of v1alpha2, and what of Kubernetes YAML tempts one to get wrong."""
  assert jobset.keys() == {'apiVersion', 'kind', 'metadata', 'spec'}
  named = jobset['apiVersion'], jobset['kind']
  assert named == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  assert jobset['spec'].keys() == {'failurePolicy', 'replicatedJobs'}
  assert jobset['spec']['failurePolicy'].keys() == {'maxRestarts'}
  (workers,) = jobset['spec']['replicatedJobs']
  assert workers.keys() == {'name', 'replicas', 'template'}
  pod = workers['template']['spec']['template']['spec']
  (container,) = pod['containers']
  names = [jobset['metadata']['name'], workers['name'], container['name']]
  assert all(re.fullmatch('[a-z0-9]([-a-z0-9]*[a-z0-9])?', name) for name in names)
  assert {m['name'] for m in container['volumeMounts']} == {
    volume['name'] for volume in pod['volumes']
  }
  assert pod['restartPolicy'] == 'Never'  # the set is what restarts
  texts = [*pod['nodeSelector'].values(), *container['command'], *container['args']]
  assert all(isinstance(text, str) for text in texts)  # "true", which YAML takes apart
  topology = pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
  assert math.prod(map(int, topology.split('x'))) == 64


def test_jobset_has_pods_of_kubernetes(jobset):
  """By its own schema, where the package of it, which is large, is installed."""
  validator = pytest.importorskip('kubernetes_validate')
  job = jobset['spec']['replicatedJobs'][0]['template']
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'job'}, **job}
  validator.validate(job, '1.37', strict=True)


def test_jobset_has_flags_that_there_are(jobset):
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  assert job['completionMode'] == 'Indexed'
  assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
  (container,) = job['template']['spec']['containers']
  assert container['command'][-1] == 'experiments.adapt'
  flags = tyro.cli(adapt.Flags, args=container['args'], config=cli._STYLE)
  assert flags.resume and flags.machine.mesh == 'data=8,fsdp=8'
  chips = container['resources']['limits']['google.com/tpu'] * job['parallelism']
  assert chips == 64
