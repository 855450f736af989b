"""The gap between two domains, measured in miniature, and what it calls for."""

import json

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.filterwarnings('ignore:The field .weights. is annotated')


@pytest.fixture
def tinted(pets, tmp_path):
  """The same pets, in red light."""
  for path in sorted(pets.rglob('*.*')):
    target = tmp_path / 'tinted' / path.relative_to(pets).with_suffix('.png')
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB')) * np.array([1.0, 0.2, 0.2])
    Image.fromarray(pixels.astype(np.uint8)).save(target)
  return tmp_path / 'tinted'


def test_gap(launch, pets, tinted, squeezenet, tmp_path):
  out = tmp_path / 'run'
  flags = ('--source', f'folder:{pets}', '--target', f'folder:{tinted}')
  flags += ('--weights', squeezenet, '--image-size', 33, '--draws', 2)
  ended = launch('gap', *flags, '--target-labels', '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  distances = result['distances']
  assert distances['A-distance']['value'] > 1
  for name in ('MMD', 'means', 'Frechet'):
    assert distances[name]['halves'] > 1.3 * result['within the source'][name], name
  assert distances.keys() == result['within the source'].keys()
  assert result['p_value'] < 0.05
  np.testing.assert_allclose(result['shares']['target, true'], [0.5, 0.5])
  np.testing.assert_allclose(sum(result['shares']['target']), 1)
  assert (
    result['advice'].startswith('The domains differ') and result['advice'] in ended.out
  )
  page = (out / 'report.html').read_text()
  titles = ('Distances', 'Shares of classes', 'Both domains')
  titles += ('Nearest pairs across the domains', 'Most foreign target images')
  for title in titles:
    assert f'<h2>{title}</h2>' in page


def test_bad_input_is_one_line(launch, pets, squeezenet, tmp_path):
  flags = ('--source', f'folder:{pets}', '--weights', squeezenet, '--image-size', 33)
  ended = launch('gap', *flags, '--target', 'folder:nowhere', '--out', tmp_path / 'run')
  assert ended.status == 2 and 'there is no such folder' in ended.err
  assert ended.err.count('\n') == 1
  flags = ('--source', f'folder:{pets}', '--target', f'folder:{pets}')
  ended = launch('gap', *flags, '--weights', 'no.pth', '--out', tmp_path / 'run')
  assert ended.status == 2 and 'no.pth: there is no such file' in ended.err
  assert not (tmp_path / 'run').exists()
