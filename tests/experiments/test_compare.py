"""The grid of methods, pairs and seeds, in miniature."""

import json
import re
import shutil

import numpy as np
import pytest

from tljax.run import Run


@pytest.fixture
def domains(pets, tmp_path):
  """The pets, and the same as another domain."""
  other = tmp_path / 'other'
  other.symlink_to(pets)
  return f'folder:{pets}', f'folder:{other}'


def test_a_grid_of_networks(launch, pets, domains, tmp_path):
  out = tmp_path / 'run'
  flags = ('--domains', *domains, '--methods', 'coral', 'coral+mcc', '--model', 'cnn')
  flags += ('--image-size', 12, '--epochs', 12, '--batch-size', 4, '--out', out)
  flags += ('--learning-rate', 0.01)
  ended = launch('compare', *flags, '--seeds', 1)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  methods = ['source only', 'oracle', 'coral', 'coral+mcc']
  ranked, chosen = result.pop('validators'), result.pop('choices')
  assert chosen.keys() == {*ranked, 'chance'}
  assert {'InfoMax', 'IWCV', 'DEV', 'consensus'} < ranked.keys()
  assert list(result) == methods
  for by_task in (*result.values(), *ranked.values(), *chosen.values()):
    assert list(by_task) == ['pets to other', 'other to pets']
  for by_task in result.values():
    assert all(len(figures['accuracy']) == 1 for figures in by_task.values())
    assert all(-2 <= figures['a_distance'] <= 2 for figures in by_task.values())
  # Both domains are the same here: cats are dark, dogs are bright.
  assert result['oracle']['pets to other']['accuracy_mean'] >= 0.75
  assert result['coral']['pets to other']['accuracy_mean'] >= 0.75
  page = (out / 'report.html').read_text()
  assert all(method in page and method in ended.out for method in methods)
  assert 'Stopped by InfoMax' in page and 'Chosen without labels' in page
  assert '<th>gap</th>' in page and '<th>A-distance</th>' in page
  assert page.count('<img alt="Features" src="data:image/png;base64,') == 1  # t-SNE

  # What is done is kept; another method and another seed join it.
  before = Run(out).records()
  more = ('--resume', '--seeds', 2)
  ended = launch('compare', *flags[:4], 'mcc', *flags[4:], *more)
  assert ended.status == 0, ended.err
  after = Run(out).records()
  assert after[: len(before)] == before and len(after) == 2 * 5 * 2
  assert list(json.loads((out / 'result.json').read_text())) != methods

  # Other images by a name that the run has are no more of the same.
  changed = tmp_path / 'changed' / 'other'
  shutil.copytree(pets, changed)
  (changed / 'cat' / '6.png').unlink()
  others = ('--domains', domains[0], f'folder:{changed}')
  ended = launch('compare', *others, *flags[3:], '--resume')
  assert ended.status == 2 and 'of other data already' in ended.err


@pytest.mark.filterwarnings('ignore:The field .weights. is annotated')
def test_a_grid_on_the_features_of_a_frozen_network(
  launch, domains, squeezenet, tmp_path
):
  flags = ('--domains', *domains, '--methods', 'dann', '--weights', squeezenet)
  flags += ('--image-size', 33, '--epochs', 20, '--seeds', 1, '--batch-size', 6)
  out, cache = tmp_path / 'run', tmp_path / 'features'
  flags += ('--frozen', '--out', out)
  ended = launch('compare', *flags, '--cache', cache)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  del result['validators'], result['choices']
  accuracies = [
    t['accuracy_mean'] for by_task in result.values() for t in by_task.values()
  ]
  assert len(accuracies) == 6 and np.mean(accuracies) > 0.7

  # The domains are the same images, so that their features are kept once.
  kept = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
  assert len(kept) == 3
  before = (out / 'result.json').read_text()
  ended = launch('compare', *flags, '--cache', cache, '--resume')
  assert ended.status == 0 and 'features:' not in ended.err
  assert kept == {path: path.stat().st_mtime_ns for path in cache.iterdir()}
  assert (out / 'result.json').read_text() == before


def test_a_method_that_diverges_leaves_the_others(launch, domains, tmp_path):
  flags = ('--domains', *domains, '--methods', 'coral:strength=nan', 'mcc')
  flags += ('--model', 'cnn', '--image-size', 12, '--epochs', 1, '--batch-size', 4)
  out = tmp_path / 'run'
  ended = launch('compare', *flags, '--seeds', 2, '--out', out)
  assert ended.status == 2
  first = 'pets to other, coral:strength=nan-0: the loss is nan at step 1'
  assert ended.err.splitlines()[-1].startswith(f'error: without what diverged: {first}')
  result = json.loads((out / 'result.json').read_text())
  assert list(result) == ['source only', 'oracle', 'mcc', 'validators', 'choices']
  assert len(Run(out).records()) == 3 * 2 * 2
  assert (out / 'report.html').exists()


def test_a_transductive_grid_judges_by_no_source_that_it_learned(
  launch, domains, tmp_path
):
  flags = ('--domains', *domains, '--targets', 'other', '--methods', 'coral')
  flags += ('--model', 'cnn', '--image-size', 12, '--epochs', 1, '--batch-size', 4)
  out = tmp_path / 'run'
  ended = launch('compare', *flags, '--transductive', '--seeds', 1, '--out', out)
  assert ended.status == 0, ended.err
  result = json.loads((out / 'result.json').read_text())
  assert {'InfoMax', 'entropy'} < result['validators'].keys()
  assert not {'source accuracy', 'IWCV', 'DEV'} & result['validators'].keys()


def test_a_grid_of_several_sources(launch, pets, domains, tmp_path):
  third = tmp_path / 'third'
  third.symlink_to(pets)
  flags = ('--domains', *domains, f'folder:{third}', '--several', '--methods', 'm3sda')
  flags += ('--model', 'cnn', '--image-size', 12, '--epochs', 12, '--batch-size', 4)
  flags += ('--seeds', 1, '--learning-rate', 0.01, '--out', tmp_path / 'run')
  flags += ('--targets', 'third', 'pets')
  ended = launch('compare', *flags)
  assert ended.status == 0, ended.err
  result = json.loads((tmp_path / 'run/result.json').read_text())
  ranked, chosen = result.pop('validators'), result.pop('choices')
  for by_task in (*ranked.values(), *chosen.values(), *result.values()):
    assert list(by_task) == ['to third', 'to pets']
  means = [figures['accuracy_mean'] for figures in result['m3sda'].values()]
  assert np.mean(means) >= 0.75
  with np.load(tmp_path / 'run/features/to third/m3sda.npz') as kept:
    assert len(kept.files) == 3


@pytest.mark.parametrize(
  ('count', 'changes', 'match'),
  [
    (1, (), 'two or more'),
    (2, ('--targets', 'emu'), '--targets: emu is none of pets, other'),
    (2, ('--methods', 'magic'), "method 'magic' is unknown"),
    (2, ('--methods', 'mcc', 'cdan+dann'), 'of the sum train a discriminator'),
    (2, ('--source-classes', 'cat'), "'dog' is in the target only.*--setting open"),
    (
      2,
      ('--methods', 'dann', 'fixmatch', '--preset', 'paper'),
      'takes 7 times --batch',
    ),
    (2, ('--frozen',), 'give the --weights of the network'),
    (2, ('--preset', 'digits', '--norm', 'batch'), 'by --preset digits:norm=batch'),
    (
      2,
      ('--preset', 'digits:width=9', '--learning-rate', '0.1'),
      'by --preset digits:width=9,rate=0.1',
    ),
    (
      2,
      ('--preset', 'library', '--methods', 'adda:source_steps=0'),
      'adda:source_steps: the schedules of preset',
    ),
    (2, ('--methods', 'dann', 'source_and_target'), 'labels of the target'),
    (2, ('--transductive', '--target-shots', '3'), '--transductive judges on all'),
    (2, ('--image-size', '0'), '--image-size is 0; choose 1 or more'),
    (2, ('--seed', '-1'), '--seed -1; ask for'),
    (2, ('--classes', 'cat', 'cat'), 'cat, cat one is named twice'),
    (2, ('--preset', 'books'), "'books' is unknown; choose one of library"),
    (2, ('--target-classes', 'emu'), "--target-classes: .*'emu'; choose from cat, dog"),
  ],
)
def test_bad_input(launch, domains, tmp_path, count, changes, match):
  flags = ('--domains', *domains[:count], '--methods', 'dann', '--model', 'cnn')
  flags += ('--image-size', 12, '--batch-size', 4, '--out', tmp_path / 'run')
  ended = launch('compare', *flags, *changes)
  assert ended.status == 2 and re.search(match, ended.err)
  assert len(ended.err.splitlines()) == 1 and not (tmp_path / 'run').exists()
