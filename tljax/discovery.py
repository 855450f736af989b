"""Methods by name: a file's name is the method's, its signature the options.

A name that ends in .py is a file of the user's own, which is run.
"""

import functools
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
from collections.abc import Iterable, Mapping

from tljax.errors import InputError

_TRUTHS = {'True': True, 'False': False}


def method_names(package) -> list[str]:
  """Names of the package's modules that define `method`, sorted."""
  modules = (module.name for module in pkgutil.iter_modules(package.__path__))
  return sorted(name for name in modules if hasattr(_module(package, name), 'method'))


def create_method(package, name: str, model, optimizer, **options):
  """Returns `method(model, optimizer, **options)` of the package's module `name`.

  Raises:
    InputError: there is no such method.
  """
  return _constructor(package, name)(model, optimizer, **options)


def method_defaults(package, name: str) -> dict:
  """Returns the default of every option of the method `name`.

  Raises:
    InputError: there is no such method.
  """
  parameters = inspect.signature(_constructor(package, name)).parameters
  return {k: p.default for k, p in parameters.items() if p.kind == p.KEYWORD_ONLY}


def parse_options(texts: Iterable[str], defaults: Mapping) -> dict:
  """Reads options such as 'rank=16', each as the kind of thing that its default is.

  Args:
    texts: as given on a command line.
    defaults: see `method_defaults`; what is no number, truth or text is no option here.

  Raises:
    InputError: there is no such option, or it is another kind of thing.
  """
  simple = {k: v for k, v in defaults.items() if isinstance(v, (bool, int, float, str))}
  found = {}
  for text in texts:
    name, _, value = text.partition('=')
    if name not in simple:
      known = ', '.join(f'{k}={v}' for k, v in simple.items()) or 'none'
      raise InputError(f'option {text!r}: the method has none such; it has {known}')
    kind = type(simple[name])
    try:
      found[name] = _TRUTHS[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
      wanted = 'True or False'
      if kind is not bool:
        wanted = f'{"an int" if kind is int else "a float"} such as {simple[name]}'
      raise InputError(f'option {text!r}: {name} is {wanted}') from None
  return found


def split_options(text: str) -> tuple[str, list[str]]:
  """Returns a method's name and options: 'cdan:entropy=True,widest=512' has two."""
  name, _, options = text.partition(':')
  return name, options.split(',') if options else []


def label(text: str) -> str:
  """Returns what a table calls a method, or a sum: a file by its name alone."""
  labels = []
  for part in text.split('+'):
    name, colon, options = part.partition(':')
    name = pathlib.Path(name).stem if _is_file(name) else name
    labels.append(name + colon + options)
  return '+'.join(labels)


def _constructor(package, name):
  if _is_file(name):
    return _own(pathlib.Path(name).resolve())
  if name not in method_names(package):
    raise InputError(
      f'method {name!r} is unknown; choose one of {", ".join(method_names(package))}'
    )
  return _module(package, name).method


def _is_file(name):
  return name.endswith('.py')


@functools.cache
def _own(path):
  """The constructor in a file from outside of the package."""
  if not path.is_file():
    raise InputError(f'method {str(path)!r}: there is no such file; check the path')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'method'):
    raise InputError(f'{path}: define method(model, optimizer, ...) there')
  return module.method


def _module(package, name):
  return importlib.import_module(f'{package.__name__}.{name}')
