"""The layout, read with `ast`: floors, cycles, sizes, and what is where."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = [
  'errors discovery method sharpness sweep losses measures optimizers processes '
  'sharding models',
  'weights data checkpoint run report plots progress watch',
  'train inference',
  'extraction finetuning adaptation',
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names.split()}
FAMILIES = set(FLOORS[-1].split())
FILES = sorted(
  path
  for top in ('tljax', 'experiments', 'benchmarks')
  for path in (ROOT / top).rglob('*.py')
)
OURS = [path for path in FILES if path.is_relative_to(ROOT / 'tljax')]


def module_of(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path):
  """Modules of this project that a file names in its imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}:{node.lineno} is a relative import'
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        found.add(whole if whole in MODULES else node.module)
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  return {
    name
    for name in found
    if name.split('.')[0] in ('tljax', 'experiments', 'benchmarks')
  }


def part(module):
  """Its name in tljax; what is outside has none."""
  parts = module.split('.')
  return parts[1] if parts[0] == 'tljax' and len(parts) > 1 else None


def ids(path):
  return str(path.relative_to(ROOT))


def test_the_reader_of_imports_sees_them():
  assert imports(MODULES['tljax.adaptation.dann']) == {
    'tljax.losses',
    'tljax.adaptation.adversarial',
    'tljax.adaptation.alignment',
    'tljax.method',
  }


def test_top_level_is_the_map():
  names = {
    path.stem for path in (ROOT / 'tljax').iterdir() if path.stem != '__pycache__'
  }
  assert names == {'__init__', *FLOOR}


def test_the_map_in_the_docstring_names_everything():
  docstring = ast.get_docstring(ast.parse((ROOT / 'tljax/__init__.py').read_text()))
  missing = {name for name in FLOOR if f'`{name}`' not in docstring}
  assert missing <= {'errors', 'discovery'}  # which are of no floor's business


@pytest.mark.parametrize('path', OURS, ids=ids)
def test_imports_go_down_the_floors(path):
  here = part(module_of(path))
  for module in imports(path):
    there = part(module)
    assert there, f'{module} is above tljax'
    if here is None or there == here:
      continue
    assert FLOOR[there] <= FLOOR[here], f'{module} is on a higher floor'
    assert not {here, there} <= FAMILIES, f'{module} is of a sibling family'


def test_there_are_no_circles():
  graph = {module: imports(path) & MODULES.keys() for module, path in MODULES.items()}
  done = set()

  def visit(module, trail):
    assert module not in trail, ' -> '.join([*trail, module])
    if module not in done:
      for other in graph[module] - {module}:
        visit(other, [*trail, module])
      done.add(module)

  for module in graph:
    visit(module, [])


@pytest.mark.parametrize('path', OURS, ids=ids)
def test_no_file_is_past_400_lines(path):
  assert len(path.read_text().splitlines()) < 400


SCRIPTS = [
  path
  for path in FILES
  if path.parent.name == 'experiments' and "__name__ == '__main__'" in path.read_text()
]


@pytest.mark.parametrize('path', SCRIPTS, ids=ids)
def test_scripts_are_thin(path):
  assert len(path.read_text().splitlines()) < 120


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_every_file_says_what_it_is(path):
  assert ast.get_docstring(ast.parse(path.read_text()))
