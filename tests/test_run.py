import json
import pathlib

import numpy as np
import pytest

from tljax.errors import InputError
from tljax.run import Run

CONFIG = {'seed': 0, 'freeze': ('backbone/.*',)}


def files(folder):
  return {path.name: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def run(tmp_path):
  run = Run.open(tmp_path / 'a' / 'run', CONFIG, resume=False)
  for name, step in [('x', 1), ('y', 1), ('x', 2), ('x', 3), ('y', 2)]:
    run.log(name, {'step': step, 'loss': 0.5})
  return run


def steps(run, name=None):
  return [(r['run'], r['step']) for r in run.records(name)]


def test_a_new_run_holds_its_configuration(run):
  config = json.loads((run.folder / 'config.json').read_text())
  assert config == {'seed': 0, 'freeze': ['backbone/.*']}


def test_resume_goes_on(run):
  before = files(run.folder)
  again = Run.open(run.folder, CONFIG, resume=True)
  assert steps(again) == steps(run) and files(run.folder) == before


@pytest.mark.parametrize('resume', [True, False])
@pytest.mark.parametrize(
  ('config', 'named'),
  [
    ({**CONFIG, 'seed': 1}, 'seed: 0 there, 1 now'),
    ({'seed': 0}, r"freeze: \['backbone/\.\*'\] there, None now"),
    ({**CONFIG, 'added': 3}, 'added: None there, 3 now'),
  ],
)
def test_another_configuration_is_refused(run, config, named, resume):
  before = files(run.folder)
  with pytest.raises(InputError, match=named):
    Run.open(run.folder, config, resume=resume)
  assert files(run.folder) == before


def test_the_same_run_without_resume_is_refused(run):
  before = files(run.folder)
  with pytest.raises(InputError, match='--resume'):
    Run.open(run.folder, CONFIG, resume=False)
  assert files(run.folder) == before


@pytest.mark.parametrize('resume', [True, False])
def test_a_folder_of_something_else_is_refused(tmp_path, resume):
  (tmp_path / 'thesis.tex').write_text('ten years of work')
  with pytest.raises(InputError, match='not empty and holds no run'):
    Run.open(tmp_path, CONFIG, resume=resume)
  assert files(tmp_path) == {'thesis.tex': b'ten years of work'}


def test_a_run_killed_before_its_configuration_was_whole_starts_anew(tmp_path):
  (tmp_path / '.config.json.partial').write_text('{"se')
  Run.open(tmp_path, CONFIG, resume=True)
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0


def test_an_out_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='cannot use --out .*file'):
    Run.open(tmp_path / 'file', CONFIG, resume=False)


@pytest.mark.parametrize('out', ['gs://bucket/run', pathlib.Path('s3://bucket/run')])
def test_a_bucket_is_refused(out, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match='--out .*bucket/run.*gcsfuse'):
    Run.open(out, CONFIG, resume=False)
  assert files(tmp_path) == {}


def test_a_broken_configuration_is_refused(run):
  (run.folder / 'config.json').write_text('{"seed"')
  with pytest.raises(InputError, match='cannot use --out'):
    Run.open(run.folder, CONFIG, resume=True)


def test_records_of_all_trainings_or_one(run):
  assert steps(run) == [('x', 1), ('y', 1), ('x', 2), ('x', 3), ('y', 2)]
  assert steps(run, 'y') == [('y', 1), ('y', 2)]


def test_a_torn_last_line_is_no_record_and_goes_on_rewind(run):
  with open(run.folder / 'metrics.jsonl', 'a') as file:
    file.write('{"run": "x", "st')
  assert steps(run, 'x') == [('x', 1), ('x', 2), ('x', 3)]
  run.rewind('x', 3)
  run.log('x', {'step': 4})
  assert steps(run, 'x')[-2:] == [('x', 3), ('x', 4)]


@pytest.mark.parametrize(('step', 'kept'), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_rewind_drops_later_records_of_that_training_only(run, step, kept):
  run.rewind('x', step)
  assert steps(run, 'x') == [('x', k) for k in kept]
  assert steps(run, 'y') == [('y', 1), ('y', 2)]


def test_rewind_before_any_record(tmp_path):
  run = Run.open(tmp_path, CONFIG, resume=False)
  run.rewind('x', 0)
  assert run.records() == []


def test_write_result(run):
  run.write_result({'accuracy': 0.5})
  run.write_result({'accuracy': 0.75, 'seeds': [{'r2': np.nan}, np.inf]})
  text = (run.folder / 'result.json').read_text()
  assert json.loads(text) == {'accuracy': 0.75, 'seeds': [{'r2': None}, None]}
  assert not list(run.folder.glob('.*.partial'))


def test_checkpoints_of_each_training_are_apart(run):
  assert run.checkpoints('x') != run.checkpoints('y')
  assert run.folder in run.checkpoints('x').parents
