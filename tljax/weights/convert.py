"""Conversion of published tensors to a model's parameters, every one accounted for."""

from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tljax.errors import InputError


def from_torch(
  tensors: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
  modules: Mapping[str, str],
) -> dict[str, np.ndarray]:
  """Converts tensors in torch's layout.

  Args:
    tensors: the file's, by their name: convolutions OIHW, linear layers OI.
    shapes: of every leaf of the model, by its path: HWIO and IO.
    modules: their module by ours; a 'kernel' is their 'weight'.

  Returns:
    float32 arrays by our path.

  Raises:
    InputError: a tensor is missing, left over, misshapen, not float or not finite.
  """
  theirs = {path: _their_name(path, modules) for path in shapes}
  missing = sorted(set(theirs.values()) - set(tensors))
  if missing:
    raise InputError(f'the weights lack {missing[0]!r}; they are of another model')
  unused = sorted(set(tensors) - set(theirs.values()))
  if unused:
    raise InputError(
      f'the weights hold {unused[0]!r}, which the model has no place for; '
      'they are of another model'
    )
  return {
    path: _convert(theirs[path], tensors[theirs[path]], shape)
    for path, shape in shapes.items()
  }


def _their_name(path, modules):
  module, leaf = path.rsplit('/', 1)
  return f'{modules[module]}.{ {"kernel": "weight"}.get(leaf, leaf) }'


def _convert(name, tensor, shape):
  if not np.issubdtype(tensor.dtype, np.floating):
    raise InputError(f'tensor {name!r} is {tensor.dtype}; weights must be floats')
  if not np.all(np.isfinite(tensor)):
    raise InputError(f'tensor {name!r} holds NaN or infinity; the file is damaged')
  # OIHW to HWIO, OI to IO, vectors as they are.
  axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}.get(tensor.ndim)
  converted = None if axes is None else tensor.transpose(axes)
  if converted is None or converted.shape != tuple(shape):
    have = tensor.shape if converted is None else converted.shape
    raise InputError(
      f'tensor {name!r} has shape {have} in our layout, the model wants '
      f'{tuple(shape)}; the weights are of another model'
    )
  return np.ascontiguousarray(converted, np.float32)


def flat_shapes(params) -> dict[str, tuple[int, ...]]:
  """Shapes of a tree of parameters by path."""
  return {path: leaf.shape for path, leaf in flatten_dict(params, sep='/').items()}


def nest(flat: Mapping[str, np.ndarray]) -> dict:
  """The tree whose leaves have these paths."""
  return unflatten_dict(flat, sep='/')
