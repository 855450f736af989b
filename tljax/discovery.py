"""Methods by name: a file's name is the method's, its signature the options."""

import importlib
import inspect
import pkgutil

from tljax.errors import InputError


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


def _constructor(package, name):
  if name not in method_names(package):
    raise InputError(
      f'method {name!r} is unknown; choose one of {", ".join(method_names(package))}'
    )
  return _module(package, name).method


def _module(package, name):
  return importlib.import_module(f'{package.__name__}.{name}')
