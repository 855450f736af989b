"""Conversion between published tensors and a model's variables, all accounted for."""

from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tljax.errors import InputError
from tljax.models.layouts import Layout

Shapes = Mapping[str, tuple[int, ...]]  # by path: 'backbone/stem/conv/kernel'


def choose_layout(
  tensors: Mapping[str, np.ndarray], layouts: Mapping[str, Layout], shapes: Shapes
) -> Layout:
  """Returns the layout that names most of the tensors."""

  def known(layout):
    wanted = {name for names, _ in layout.names(shapes).values() for name in names}
    return len(wanted & set(tensors))

  return max(layouts.values(), key=known)


def load(
  tensors: Mapping[str, np.ndarray], layout: Layout, shapes: Shapes
) -> dict[str, np.ndarray]:
  """Converts a file's tensors, read one at a time.

  Args:
    tensors: by the publisher's name.
    layout: of the names and axes.
    shapes: of every leaf of the model.

  Returns:
    float32 arrays by our path.

  Raises:
    InputError: a tensor is missing, left over, misshapen, not float or not finite.
  """
  entries = layout.names(shapes)
  wanted = {name for names, _ in entries.values() for name in names}
  missing = sorted(wanted - set(tensors))
  if missing:
    raise InputError(f'the weights lack {_some(missing)}; they are of another model')
  unused = sorted(name for name in set(tensors) - wanted if not layout.is_ignored(name))
  if unused:
    raise InputError(
      f'the weights hold {_some(unused)}, which the model has no place for; '
      'they are of another model'
    )
  return {
    path: _load_leaf([(name, tensors[name]) for name in names], transform, shapes[path])
    for path, (names, transform) in entries.items()
  }


def _some(names):
  more = f' and {len(names) - 1} more' if len(names) > 1 else ''
  return f'{names[0]!r}{more}'


def _load_leaf(named, transform, shape):
  arrays = [_check(name, np.asarray(tensor)) for name, tensor in named]
  converted = transform.load(arrays, tuple(shape))
  if converted.shape != tuple(shape):
    raise InputError(
      f'tensor {named[0][0]!r} has shape {converted.shape} in our layout, the model '
      f'wants {tuple(shape)}; the weights are of another model'
    )
  return np.ascontiguousarray(converted)


def _check(name, tensor):
  # bfloat16 is NumPy's by way of ml_dtypes, whose kind is 'V'.
  if not (np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name == 'bfloat16'):
    raise InputError(f'tensor {name!r} is {tensor.dtype}; weights must be floats')
  with np.errstate(over='ignore'):  # of float64, to infinity
    tensor = tensor.astype(np.float32, copy=False)
  if not np.isfinite(tensor).all():
    raise InputError(f'tensor {name!r} holds NaN or infinity; the file is damaged')
  return tensor


def store(leaves: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
  """The inverse of `load`: the publisher's tensors by their names."""
  shapes = {path: np.shape(leaf) for path, leaf in leaves.items()}
  return {
    name: np.ascontiguousarray(tensor)
    for path, (names, transform) in layout.names(shapes).items()
    for name, tensor in zip(
      names, transform.store(np.asarray(leaves[path])), strict=True
    )
  }


def flatten(variables: Mapping) -> dict:
  """Leaves by path, the collections side by side: no two have one path."""
  return {
    path: leaf
    for collection in variables.values()
    for path, leaf in flatten_dict(collection, sep='/').items()
  }


def unflatten(leaves: Mapping, like: Mapping) -> dict:
  """The inverse of `flatten`; leaves that are absent are left out.

  Args:
    leaves: by path.
    like: variables that say which collection a path is in.
  """
  return {
    collection: unflatten_dict(
      {path: leaves[path] for path in flatten_dict(tree, sep='/') if path in leaves},
      sep='/',
    )
    for collection, tree in like.items()
  }
