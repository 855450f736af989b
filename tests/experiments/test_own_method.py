"""The README's example of a method from outside of the package."""

import json
import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[2] / 'README.md'


@pytest.fixture
def own(tmp_path):
  """The file that the README shows."""
  blocks = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
  (code,) = (block for block in blocks if 'def method(' in block)
  path = tmp_path / 'moments.py'
  path.write_text(code)
  return path


def test_it_adapts(launch, own, tmp_path):
  assert len(own.read_text().splitlines()) <= 40
  out = tmp_path / 'run'
  flags = ('--source', 'digits', '--target', 'digits-m', '--model', 'cnn')
  flags += ('--epochs', 1, '--seeds', 1, '--out', out)
  ended = launch('adapt', *flags, '--method', f'{own}+mcc')
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert list(result['strategies']) == ['source_only', 'moments+mcc']
  assert sorted(path.name for path in (out / 'checkpoints').iterdir()) == [
    'moments+mcc-0',
    'source_only-0',
  ]
  # A folder may be a stranger's: what it names is not run.
  ended = launch(
    'predict', '--run', out, '--images', tmp_path, '--out', tmp_path / 'x.csv'
  )
  assert ended.status == 2 and 'load it in Python' in ended.err


@pytest.mark.parametrize(
  ('text', 'match'), [(None, 'there is no such file'), ('x = 1\n', 'define method(')]
)
def test_bad_input(launch, tmp_path, text, match):
  path = tmp_path / 'other.py'
  if text:
    path.write_text(text)
  flags = ('--source', 'digits', '--target', 'digits-m', '--model', 'cnn')
  ended = launch('adapt', *flags, '--method', path, '--out', tmp_path / 'run')
  assert ended.status == 2 and match in ended.err
