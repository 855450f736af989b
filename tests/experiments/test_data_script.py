"""The script that shows data sets."""

import json


def test_one_set(launch, pets, tmp_path):
  (pets / 'cat' / '5.png').write_bytes(b'no image')
  ended = launch('data', f'folder:{pets}', '--out', tmp_path / 'out')
  assert ended.status == 0, ended.err
  assert 'Corrupt images: 1' in ended.out and 'cat/5.png: cannot be read' in ended.out
  result = json.loads((tmp_path / 'out' / 'result.json').read_text())[f'folder:{pets}']
  assert result['classes'] == ['cat', 'dog']
  assert result['counts']['train'] == {'cat': 6, 'dog': 6}
  assert len(result['corrupt']) == 1 and result['duplicates'] == []
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert 'alt="Pictures"' in page and 'cat/5.png' in page


def test_two_sets_and_what_they_share(launch, pets, tmp_path):
  (pets.parent / 'zoo').mkdir()
  for name in ('dog', 'cat'):
    target = {'dog': 'dog', 'cat': 'emu'}[name]
    (pets.parent / 'zoo' / target).symlink_to(pets / name)
  sets = [f'folder:{pets}', f'folder:{pets.parent / "zoo"}']
  ended = launch('data', *sets, '--out', tmp_path / 'out')
  assert ended.status == 0, ended.err
  result = json.loads((tmp_path / 'out' / 'result.json').read_text())
  assert result['classes'] == {
    'both': ['dog'],
    'the first only': ['cat'],
    'the second only': ['emu'],
  }
  assert launch('data', *sets, '--out', tmp_path / 'out').status == 0  # once more
  other = launch('data', sets[0], '--out', tmp_path / 'out')
  assert other.status == 2 and 'another configuration' in other.err


def test_bad_input(launch, pets, tmp_path):
  for sets in ((), ('digits',) * 3, ('nothing',), (f'folder:{pets}/none',)):
    ended = launch('data', *sets, '--out', tmp_path / 'out')
    assert ended.status == 2
    assert ended.err.startswith('error: ') and ended.err.count('\n') == 1
    assert not (tmp_path / 'out').exists()
