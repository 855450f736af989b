"""Published weights as a model's variables."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tljax import models
from tljax.errors import InputError
from tljax.method import complete_variables
from tljax.weights import convert, readers


def load(
  name: str,
  source: str | pathlib.Path,
  num_classes: int | None = None,
  key: jax.Array | None = None,
) -> Mapping[str, Any]:
  """Returns the variables of the model `name`: `{'params': {'backbone', 'head'}}`.

  Args:
    name: of the architecture; see `models.names`.
    source: path of a .safetensors or .npz file in torchvision's layout.
    num_classes: by default the file's. Another number gets a freshly initialised
      head, the rest loaded, and that is said on standard error.
    key: draws such a head; by default `jax.random.key(0)`.

  Raises:
    InputError: the file cannot be read, or a tensor of it does not fit the model.
  """
  tensors = readers.read(source)
  names = models.family(name).torchvision_names(name)
  head = [theirs for ours, theirs in names.items() if ours.startswith('head/')]
  bias = f'{head[-1]}.bias'
  if bias not in tensors:
    raise InputError(f'{source}: the weights lack {bias!r}; they are of another model')
  published = len(tensors[bias])
  variables = _convert(name, source, tensors, published)
  if num_classes in (None, published):
    return variables
  print(
    f'{name}: new head for {num_classes} classes (the weights have {published}); '
    'the rest is loaded',
    file=sys.stderr,
  )
  return complete_variables(
    jax.random.key(0) if key is None else key,
    models.create(name, num_classes),
    _example(name),
    backbone_of(variables),
  )


def load_backbone(name: str, source: str | pathlib.Path) -> Mapping[str, Any]:
  """As `load`, without the head: a Method draws the head of its own model."""
  return backbone_of(load(name, source))


def backbone_of(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of the part 'backbone' alone."""
  return {
    collection: {part: tree for part, tree in parts.items() if part == 'backbone'}
    for collection, parts in variables.items()
  }


def _convert(name, source, tensors, num_classes):
  model = models.create(name, num_classes)
  abstract = jax.eval_shape(
    lambda: model.init(jax.random.key(0), _example(name), train=False)
  )
  shapes = convert.flat_shapes(abstract['params'])
  names = models.family(name).torchvision_names(name)
  try:
    return {'params': convert.nest(convert.from_torch(tensors, shapes, names))}
  except InputError as error:
    raise InputError(f'{source}: {error}') from error


def _example(name):
  size = models.spec(name).input_size
  return jnp.zeros((1, size, size, 3), jnp.float32)
