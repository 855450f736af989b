"""Bad input: exit status 2, one line that names it, and nothing is overwritten."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from tljax import models, weights

ROOT = pathlib.Path(__file__).parents[2]
TINY = ('--model', 'cnn', '--epochs', 1, '--seeds', 1, '--batch-size', 4)
DIGITS = ('--source', 'digits', '--target', 'digits-m', '--model', 'cnn')


def contents(folder):
  """All that lies in the folder, by path; None stands for a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in folder.rglob('*')
  }


@pytest.fixture
def refuse(launch, tmp_path):
  """Asserts that a script refuses, and in what words."""

  def refuse(named, script, *argv):
    before = contents(tmp_path)
    ended = launch(script, *argv)
    assert ended.status == 2
    assert re.fullmatch(r'error: .+\n', ended.err), ended.err
    assert re.search(named, ended.err), ended.err
    assert ended.out == ''
    assert contents(tmp_path) == before

  return refuse


@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
@pytest.mark.parametrize('script', ['finetune', 'extract'])
def test_rows_of_numbers_are_no_images(refuse, tmp_path, script):
  rows = '\n'.join(f'{i % 7},{i % 5},{"ab"[i % 2]}' for i in range(40))
  (tmp_path / 'rows.csv').write_text(f'x,y,kind\n{rows}\n')
  data = f'csv:{tmp_path}/rows.csv?features=all&label=kind'
  flags = ('--data', data, '--out', tmp_path / 'run')
  refuse('has rows of numbers; adapt and compare', script, *flags)


@pytest.mark.parametrize(
  ('script', 'flags', 'named'),
  [
    ('quickstart', ('--epochs', 0), '--epochs is 0'),
    ('quickstart', ('--epochs', -1), '--epochs is -1'),
    ('quickstart', ('--epochs', 'many'), "--epochs.*'many'"),
    ('quickstart', ('--seeds', 0), '--seeds is 0'),
    ('quickstart', ('--batch-size', 101), '--batch-size is 101 .* 100 examples'),
    ('quickstart', ('--epoch', 1), 'Unrecognized.*--epoch'),
    ('quickstart', ('leftover',), 'Unrecognized.*leftover'),
    ('adapt', (*DIGITS, '--model', 'vgg'), "model 'vgg' is unknown.*cnn"),
    ('adapt', (*DIGITS, '--method', 'magic'), "method 'magic' is unknown.*dann"),
    ('adapt', (*DIGITS, '--method', 'alignment'), "method 'alignment' is unknown"),
    ('adapt', (*DIGITS, '--method', 'mcc+magic'), "method 'magic' is unknown.*dann"),
    ('adapt', (*DIGITS, '--method', 'mcc+mcd'), "method 'mcd' does more than add"),
    ('adapt', (*DIGITS, '--method', 'dann+bsp'), 'two methods .* a discriminator'),
    ('adapt', (*DIGITS, '--method', 'adabn', '--model', 'squeezenet1_1'), 'no batch'),
    ('adapt', (*DIGITS, '--method', 'adabn', '--strength', 1), 'adabn has no strength'),
    ('adapt', (*DIGITS, '--augment', 'spin'), "'spin'.*--augment.*flip"),
    ('adapt', (*DIGITS, '--batch-size', 10**4), '--batch-size is 10000'),
    ('adapt', (*DIGITS, '--epochs', 0), '--epochs is 0'),
    ('adapt', (*DIGITS, '--seeds', 0), '--seeds is 0'),
    ('adapt', DIGITS[2:], 'Required.*--source'),
    ('finetune', ('--data', 'digits', '--seeds', 0, *TINY[:2]), '--seeds is 0'),
    ('finetune', ('--data', 'imagenet', *TINY), "data set 'imagenet' is unknown"),
    ('finetune', ('--data', 'folder:', *TINY), "data set 'folder:' is unknown"),
    ('finetune', TINY, 'Required.*--data'),
    ('finetune', ('--data', 'digits', '--shots', 99, *TINY), "class '0' has 5. exam"),
    ('finetune', ('--data', 'digits', '--val-fraction', 0.2, *TINY), 'of its own'),
    ('finetune', ('--data', 'digits', '--classes', '3', 'x', *TINY), "no class 'x'"),
    ('finetune', ('--data', 'digits', '--mix', 'all', *TINY), "'all'.*--mix.*cutmix"),
    ('finetune', ('--data', 'digits', '--shots', -1, *TINY), '-1 shots are none'),
    ('finetune', ('--data', 'digits', '--freeze', '*', *TINY), "'.' is no pattern"),
    ('finetune', ('--data', 'digits', '--freeze', 'x/.*', *TINY), 'no parameter'),
    ('adapt', (*DIGITS, '--shots', 3), 'Unrecognized.*--shots'),
    ('adapt', (*DIGITS, '--target-shots', -1), '-1 shots are none'),
    ('extract', ('--data', 'digits', '--weights', 'x', '--epochs', 0), '--epochs is 0'),
    ('extract', ('--data', 'digits', '--head', 'tree'), "'tree'.*--head.*nearest_mean"),
  ],
)
@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_bad_flags(refuse, tmp_path, script, flags, named):
  refuse(named, script, '--out', tmp_path / 'run', *flags)


def no_folder(pets):
  for path in sorted(pets.rglob('*'), reverse=True):
    path.unlink() if path.is_file() else path.rmdir()
  pets.rmdir()


def no_image(pets):
  (pets / 'emu').mkdir()
  (pets / 'emu' / 'notes.txt').write_text('no image')


def one_class(pets):
  (pets / 'dog').rename(pets.parent / 'dog')


def corrupt(pets):
  (pets / 'dog' / '3.png').write_bytes(b'no image')


def truncated(pets):
  path = pets / 'cat' / '6.png'
  path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
  ('spoil', 'named'),
  [
    (no_folder, r'pets: there is no such folder'),
    (no_image, r'emu: holds no image'),
    (one_class, r'pets: holds 1 class folder'),
    (corrupt, r'dog/3\.png: cannot be read.*--skip-corrupt'),
    (truncated, r'cat/6\.png: cannot be read.*--skip-corrupt'),
  ],
)
def test_bad_folders(refuse, pets, tmp_path, spoil, named):
  spoil(pets)
  refuse(
    named, 'finetune', '--data', f'folder:{pets}', *TINY, '--out', tmp_path / 'run'
  )


def test_corrupt_images_are_counted_and_left_out(launch, pets, tmp_path):
  corrupt(pets)
  truncated(pets)
  out, data = tmp_path / 'run', f'folder:{pets}'
  ended = launch('finetune', '--data', data, *TINY, '--skip-corrupt', '--out', out)
  assert ended.status == 0
  first, *_, last = ended.err.splitlines()  # progress between, on a slow machine
  assert 'left out 2 corrupt image(s)' in first and 'cat/6.png' in first
  assert last == f'wrote {out / "report.html"}'
  assert (out / 'result.json').exists()


def test_different_classes_in_source_and_target(refuse, pets, tmp_path):
  flags = ('--source', 'digits', '--target', f'folder:{pets}', *TINY)
  refuse("class '0' is in the source only", 'adapt', *flags, '--out', tmp_path / 'run')


def test_a_batch_larger_than_the_folder(refuse, pets, tmp_path):
  flags = ('--data', f'folder:{pets}', *TINY[:-1], 13, '--out', tmp_path / 'run')
  refuse('--batch-size is 13 .* 12 examples', 'finetune', *flags)


@pytest.mark.parametrize('script', ['finetune', 'extract'])
@pytest.mark.parametrize(
  ('change', 'named'),
  [
    ({'features.3.squeeze.weight': np.ones((8, 64, 1, 1), 'f')}, 'features.3.squeeze'),
    ({'features.12.expand1x1.bias': np.ones(7, 'f')}, 'features.12.expand1x1.bias'),
    ({'fc.weight': np.ones((5, 512), 'f')}, 'fc.weight'),
  ],
  ids=['kernel', 'bias', 'more'],
)
@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_weights_that_do_not_fit(
  refuse, pets, tensors, tmp_path, script, change, named
):
  path = tmp_path / 'other.safetensors'
  safetensors.numpy.save_file({**tensors, **change}, path)
  flags = ('--data', f'folder:{pets}', '--weights', path, '--image-size', 33)
  flags += ('--model', 'squeezenet1_1', '--batch-size', 6, '--out', tmp_path / 'run')
  refuse(re.escape(named), script, *flags)


@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_images_that_do_not_fit(refuse, pets, tmp_path):
  flags = ('--data', f'folder:{pets}', '--batch-size', 6, '--out', tmp_path / 'run')
  flags += ('--epochs', 1, '--image-size', 16, '--model')
  refuse('the images are too small', 'finetune', *flags, 'squeezenet1_1')
  path = tmp_path / 'lenet.safetensors'
  variables = models.create('lenet', 10).init(
    jax.random.key(0), np.zeros((1, 28, 28, 3), 'f')
  )
  weights.export(variables, 'lenet', 'tllib', path)
  named = 'hidden/dense/kernel: the model wants shape .*800'
  refuse(named, 'finetune', *flags, 'lenet', '--weights', path)


@pytest.mark.parametrize('script', ['finetune', 'extract'])
@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_weights_that_are_not_there(refuse, pets, tmp_path, script):
  flags = ('--data', f'folder:{pets}', '--weights', tmp_path / 'none.safetensors')
  flags += ('--image-size', 33, '--batch-size', 6, '--out', tmp_path / 'run')
  refuse(r'none\.safetensors: there is no such file', script, *flags)


def test_a_folder_in_use(launch, refuse, pets, tmp_path):
  """A run is neither overwritten nor mixed with another; --resume goes on with it."""
  flags = ('--data', f'folder:{pets}', *TINY, '--image-size', 8)
  out = ('--out', tmp_path / 'run')
  assert launch('finetune', *flags, *out).status == 0
  refuse('holds this run already.*--resume', 'finetune', *flags, *out)
  for resume in ((), ('--resume',)):
    changed = (*flags, '--learning-rate', 0.5, *out, *resume)
    refuse('another configuration.*learning_rate', 'finetune', *changed)
  result = (tmp_path / 'run' / 'result.json').read_text()
  assert launch('finetune', *flags, *out, '--resume').status == 0
  assert (tmp_path / 'run' / 'result.json').read_text() == result
  (pets / 'cat' / '0.png').unlink()
  refuse('another configuration.*fingerprint', 'finetune', *flags, *out, '--resume')


@pytest.mark.parametrize('resume', [(), ('--resume',)], ids=['start', 'resume'])
def test_a_folder_of_something_else(refuse, tmp_path, resume):
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'result.json').write_text('ten years of work')
  flags = ('--epochs', 1, '--out', tmp_path / 'thesis', *resume)
  refuse('thesis is not empty and holds no run', 'quickstart', *flags)


def test_an_out_that_is_a_file(refuse, tmp_path):
  (tmp_path / 'run').write_text('not a folder')
  refuse('cannot use --out', 'quickstart', '--epochs', 1, '--out', tmp_path / 'run')


def test_as_a_user_sees_it(pets, tmp_path):
  """Of a whole process, warnings of libraries included, one line is left."""
  truncated(pets)
  before = contents(tmp_path)
  command = [sys.executable, '-m', 'experiments.finetune', '--data', f'folder:{pets}']
  command += [*map(str, TINY), '--out', str(tmp_path / 'run')]
  ended = subprocess.run(
    command, capture_output=True, text=True, cwd=ROOT, env={**os.environ}, timeout=60
  )
  assert ended.returncode == 2
  assert re.fullmatch(r'error: .*cat/6\.png.*\n', ended.stderr)
  assert ended.stdout == ''
  assert contents(tmp_path) == before


@pytest.mark.parametrize('script', ['quickstart', 'finetune', 'extract', 'adapt'])
@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_help_is_a_page_and_no_error(launch, script):
  ended = launch(script, '--help')
  assert ended.status == 0 and ended.err == ''
  for flag in ('--out', '--seed', '--seeds', '--batch-size', '--epochs', '--resume'):
    assert f'{flag} ' in ended.out
  assert len(ended.out.splitlines()) <= 60
