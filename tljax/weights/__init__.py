"""Published weights as a model's variables, and back."""

import functools
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax import models
from tljax.errors import InputError
from tljax.weights import adapt, convert, readers, registry, writers

HEAD = 'head/'
CLASSIFIER = 'head/classifier/'  # what another number of classes leaves behind


def load(
  name: str,
  source: str | pathlib.Path,
  num_classes: int | None = None,
  key: jax.Array | None = None,
  *,
  in_channels: int = 3,
) -> Mapping[str, Any]:
  """Returns the variables of the model `name`: params of 'backbone' and 'head', and
  batch statistics.

  Args:
    name: of the architecture; see `models.names`.
    source: a tag of the registry such as 'torchvision/imagenet1k_v1', which is
      fetched and verified; or the path of a file in one of the model's published
      layouts; see `readers.read` for the formats.
    num_classes: by default the file's. Another number gets a freshly initialised
      classifier, the rest loaded, and that is said on standard error.
    key: draws it; by default `jax.random.key(0)`.
    in_channels: of the images; other than 3 adapts the first convolution, see
      `adapt.in_channels`, for `models.create(name, in_channels=...)`.

  Raises:
    InputError: the file cannot be read, or a tensor of it does not fit the model.
  """
  leaves, published = _read(name, source, in_channels)
  if num_classes is None and published is None:
    raise InputError(
      f'{source}: the weights have no classifier; say num_classes for a new one'
    )
  if num_classes in (None, published):
    return convert.unflatten(leaves, _abstract(name, published))
  print(
    f'{name}: new classifier for {num_classes} classes (the weights have '
    f'{published or "none"}); the rest is loaded',
    file=sys.stderr,
  )
  kept = HEAD if published is None else CLASSIFIER
  kept = {path: leaf for path, leaf in leaves.items() if not path.startswith(kept)}
  key = jax.random.key(0) if key is None else key
  fresh = _fresh(name, num_classes, key, frozenset(kept))
  return convert.unflatten({**fresh, **kept}, _abstract(name, num_classes))


def load_backbone(
  name: str, source: str | pathlib.Path, *, in_channels: int = 3
) -> Mapping[str, Any]:
  """As `load`, without the head: a Method draws the head of its own model."""
  leaves, _ = _read(name, source, in_channels)
  leaves = {path: leaf for path, leaf in leaves.items() if not path.startswith(HEAD)}
  return convert.unflatten(leaves, _abstract(name, 1000))


def export(
  variables: Mapping[str, Any], name: str, layout: str, path: str | pathlib.Path
) -> None:
  """Writes variables as a published format does, for the framework it comes from.

  Args:
    variables: of the model `name`, with its published kind of head.
    name: of the architecture.
    layout: 'torchvision', 'timm', 'keras' or another of the model's.
    path: a new file: .safetensors for PyTorch (`load_state_dict`), .h5 for Keras
      (`load_weights(path, by_name=True)`), .npz for Google's.

  Raises:
    InputError: the model has no such layout, a leaf is missing, or the file exists.
  """
  layouts = models.family(name).layouts(name)
  layouts = {key: table for key, table in layouts.items() if table.export}
  if layout not in layouts:
    raise InputError(
      f'{name} has no layout {layout!r}; choose one of {", ".join(sorted(layouts))}'
    )
  leaves = convert.flatten(jax.tree.map(np.asarray, dict(variables)))
  wanted = set(convert.flatten(_abstract(name, 1000)))
  if wanted != set(leaves):
    path_of = sorted(wanted ^ set(leaves))[0]
    raise InputError(
      f'{path_of!r} is {"missing" if path_of in wanted else "unknown to the layout"}; '
      f'export takes all variables of {name} with its published kind of head'
    )
  writers.write(path, convert.store(leaves, layouts[layout]))


def _read(name, source, in_channels):
  """The file's leaves by our path, and its number of classes; None: no classifier."""
  path = registry.locate(name, source)
  tensors = readers.read(path)
  layouts = models.family(name).layouts(name)
  shapes = _shapes(name, 1000)
  layout = convert.choose_layout(tensors, layouts, shapes)
  entries = layout.names(shapes)
  bias = entries[f'{CLASSIFIER}bias'][0][0]
  head = [n for p, (n, _) in entries.items() if p.startswith(HEAD)]
  published = None
  if bias in tensors:
    published = max(1, np.size(tensors[bias]))
    shapes = _shapes(name, published)
  elif not any(n in tensors for names in head for n in names):
    shapes = {p: shape for p, shape in shapes.items() if not p.startswith(HEAD)}
  try:
    leaves = convert.load(tensors, layout, shapes)
  except InputError as error:
    raise InputError(f'{source}: {error}') from error
  if in_channels != 3:
    spec = models.spec(name)
    leaves = adapt.in_channels(leaves, spec.stages[0], in_channels, spec.channels)
  return leaves, published


@functools.lru_cache(maxsize=32)
def _abstract(name, num_classes):
  """The model's variables as shapes."""
  return jax.eval_shape(lambda: _init(name, num_classes, jax.random.key(0)))


def _init(name, num_classes, key):
  size = models.spec(name).input_size
  model = models.create(name, num_classes)
  return model.init(key, jnp.zeros((1, size, size, 3)), train=False)


def _shapes(name, num_classes):
  flat = convert.flatten(_abstract(name, num_classes))
  return {path: leaf.shape for path, leaf in flat.items()}


def _fresh(name, num_classes, key, without):
  """Freshly drawn leaves, those of `without` spared the work."""

  def init(key):
    leaves = convert.flatten(_init(name, num_classes, key))
    return {path: leaf for path, leaf in leaves.items() if path not in without}

  return jax.jit(init)(key)
