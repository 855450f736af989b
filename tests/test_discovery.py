import importlib

import optax
import pytest

from tljax import adaptation, discovery, finetuning
from tljax.errors import InputError
from tljax.method import Method


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A family of two methods and a shared file."""
  folder = tmp_path / 'made_up_family'
  folder.mkdir()
  method = 'def method(model, optimizer, *, rate=1):\n  return {}, model, rate\n'
  for name, text in {
    '__init__': '',
    'zebra': method.format("'zebra'"),
    'ant': method.format("'ant'"),
    'shared': 'def helper(): pass\n',
  }.items():
    (folder / f'{name}.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  return importlib.import_module('made_up_family')


def test_methods_are_the_modules_that_define_method(package):
  assert discovery.method_names(package) == ['ant', 'zebra']


def test_create_passes_model_and_options(package):
  assert discovery.create_method(package, 'ant', 'net', None) == ('ant', 'net', 1)
  created = discovery.create_method(package, 'zebra', 'net', None, rate=2)
  assert created == ('zebra', 'net', 2)


def test_defaults_are_the_constructors(package):
  assert discovery.method_defaults(package, 'ant') == {'rate': 1}


@pytest.mark.parametrize('name', ['shared', 'bee'])
def test_unknown_method_lists_the_known(package, name):
  with pytest.raises(InputError, match=f"'{name}' is unknown.*ant, zebra"):
    discovery.create_method(package, name, 'net', None)
  with pytest.raises(InputError, match=f"'{name}' is unknown.*ant, zebra"):
    discovery.method_defaults(package, name)


def test_families_are_found(model):
  assert 'dann' in adaptation.names() and 'plain' in finetuning.names()
  assert not {'alignment', 'adversarial', 'labels'} & {
    *adaptation.names(),
    *finetuning.names(),
  }
  assert isinstance(adaptation.create('dann', model, optax.sgd(0.1)), Method)
  assert isinstance(finetuning.create('plain', model, optax.sgd(0.1)), Method)


DEFAULTS = {'rank': 8, 'radius': 0.05, 'deep': False, 'pattern': '.*', 'head': None}


def test_options_are_read_as_their_defaults_are():
  texts = ('rank=16', 'radius=1', 'deep=True', 'pattern=a=b')
  found = discovery.parse_options(texts, DEFAULTS)
  assert found == {'rank': 16, 'radius': 1.0, 'deep': True, 'pattern': 'a=b'}
  assert [type(v) for v in found.values()] == [int, float, bool, str]


@pytest.mark.parametrize(
  ('text', 'complaint'),
  [
    ('rnk=2', "option 'rnk=2': .* none such; it has rank=8, radius=0.05, deep=False"),
    ('head=a', 'the method has none such'),
    ('rank=1.5', "option 'rank=1.5': rank is an int such as 8"),
    ('radius=', 'radius is a float such as 0.05'),
    ('deep=yes', 'deep is True or False'),
    ('rank', 'rank is an int such as 8'),
  ],
)
def test_a_wrong_option_is_named(text, complaint):
  with pytest.raises(InputError, match=complaint):
    discovery.parse_options([text], DEFAULTS)


def test_a_method_without_options_says_so():
  with pytest.raises(InputError, match='it has none'):
    discovery.parse_options(['rank=1'], {})


def test_a_label_has_the_options_and_no_folder():
  assert discovery.label('dann') == 'dann'
  name = 'own/tent.py:rate=1,deep=True+mcc:strength=2'
  assert discovery.label(name) == 'tent:rate=1,deep=True+mcc:strength=2'
