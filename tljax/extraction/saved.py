"""A backbone with its trained head on disk: all that prediction on new images needs."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import flax.serialization
import jax
import numpy as np

from tljax import models
from tljax.data.images import Transform
from tljax.errors import InputError
from tljax.extraction.head import At
from tljax.extraction.neighbours import Neighbours
from tljax.method import Variables
from tljax.models.base import Classifier, FlattenMLP, Linear

_KINDS = {kind.__name__: kind for kind in (Linear, FlattenMLP, Neighbours, At)}
# What is of no matter once the head is trained.
_LEFT_OUT = {'parent', 'name', 'dtype', 'kernel_init'}


class Saved(NamedTuple):
  """A model that predicts.

  Attributes:
    model: a classifier of images (N, H, W, 3) float32 in [0, 1].
    variables: its variables.
    classes: names, by logit; none of a regression.
    transform: how an image file becomes such an image, but for the scale.
    is_multi_label: whether each logit is of a class against its absence.
  """

  model: Classifier
  variables: Variables
  classes: tuple[str, ...]
  transform: Transform
  is_multi_label: bool = False


def save(
  folder: str | pathlib.Path,
  name: str,
  model: Classifier,
  variables: Variables,
  classes: Sequence[str],
  transform: Transform,
  is_multi_label: bool = False,
) -> None:
  """Writes variables.msgpack and model.json, each whole or not at all.

  Args:
    folder: made where it is missing.
    name: of the architecture, as `models.create` knows it, that has the backbone.
    model: backbone and head, as `head.join` returns them.
    variables: its variables.
    classes: names, by logit; none of a regression.
    transform: of the images.
    is_multi_label: see `Saved`.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  leaves = jax.tree.map(np.asarray, dict(variables))
  _write(folder / 'variables.msgpack', flax.serialization.to_bytes(leaves))
  description = {
    'model': name,
    'head': _describe(model.head),
    'classes': list(classes),
    'transform': dataclasses.asdict(transform),
    'is_multi_label': is_multi_label,
  }
  text = json.dumps(description, indent=2) + '\n'
  _write(folder / 'model.json', text.encode())


def load(folder: str | pathlib.Path) -> Saved:
  """Returns what `save` wrote.

  Raises:
    InputError: it is not there, or damaged.
  """
  folder = pathlib.Path(folder)
  try:
    description = json.loads((folder / 'model.json').read_text())
    variables = flax.serialization.msgpack_restore(
      (folder / 'variables.msgpack').read_bytes()
    )
    head = _build(description['head'])
    transform = Transform(**description['transform'])
    model, classes = models.create(description['model']), description['classes']
    is_multi_label = description.get('is_multi_label', False) is True
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f'{folder}: holds no whole saved model ({error!r})') from error
  model = model.clone(head=head)
  return Saved(model, variables, tuple(classes), transform, is_multi_label)


def _describe(module: nn.Module) -> dict:
  fields = {f.name for f in dataclasses.fields(module)} - _LEFT_OUT
  values = {name: getattr(module, name) for name in sorted(fields)}
  if 'head' in values:
    values['head'] = _describe(values['head'])
  return {'kind': type(module).__name__, **values}


def _build(description: dict) -> nn.Module:
  values = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items()}
  if 'head' in values:
    values['head'] = _build(values['head'])
  return _KINDS[values.pop('kind')](**values)


def _write(path, content):
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_bytes(content)
  os.replace(partial, path)
