"""The table of the zoo."""

import pytest

from tljax import models
from tljax.weights import registry


def test_everything_is_listed(launch):
  shown = launch('models')
  assert shown.status == 0
  lines = shown.out.splitlines()
  for name in models.names():
    assert any(f'│ {name} ' in line for line in lines), name
  for row in registry.table():
    assert any(f'│ {row.model} ' in line and row.tag in line for line in lines), row


def test_filters(launch):
  shown = launch('models', '--match', 'resnet50', '--weights', 'keras').out
  assert 'resnet50_keras' in shown and '74.9' in shown and '25.6' in shown
  assert '│ resnet50 ' not in shown and 'torchvision' not in shown
  small = launch('models', '--max-parameters', '2').out
  assert 'squeezenet1_1' in small and 'resnet18' not in small


@pytest.mark.parametrize('flags', [('--match', 'alexnet'), ('--weights', 'caffe')])
def test_nothing_found_is_one_line(launch, flags):
  shown = launch('models', *flags)
  assert shown.status == 2
  assert shown.err == 'error: no model fits these filters; leave one out\n'
  assert not shown.out
