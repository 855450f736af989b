"""Methods by name: a file's name is the method's, its signature the options."""

import importlib
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
  if name not in method_names(package):
    raise InputError(
      f'method {name!r} is unknown; choose one of {", ".join(method_names(package))}'
    )
  return _module(package, name).method(model, optimizer, **options)


def _module(package, name):
  return importlib.import_module(f'{package.__name__}.{name}')
