"""Writers of published weight formats: the inverse of the readers."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from etils import epy

from tljax.errors import InputError

with epy.lazy_imports():  # it is slow to import
  import h5py


def write(path: str | pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes tensors to a new file, whole or not at all.

  Args:
    path: .safetensors, .npz, or .h5 in Keras' layout by layer name.
    tensors: by the publisher's name.

  Raises:
    InputError: another suffix, or the file exists.
  """
  path = pathlib.Path(path)
  if path.suffix not in _WRITERS:
    raise InputError(f'{path}: want one of {", ".join(sorted(_WRITERS))}')
  if path.exists():
    raise InputError(f'{path} exists; choose another name')
  partial = path.with_name(f'.partial-{path.name}')
  try:
    _WRITERS[path.suffix](dict(tensors), partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _write_npz(tensors, path):
  with open(path, 'wb') as file:
    np.savez(file, **tensors)


def _write_h5(tensors, path):
  """Keras' HDF5 of weights alone: a group a layer, found by its name."""
  layers = {}
  for name in tensors:
    layer, variable = name.rsplit('/', 1)
    layers.setdefault(layer, []).append(variable)
  order = ['kernel', 'depthwise_kernel', 'gamma', 'bias', 'beta']
  order += ['moving_mean', 'moving_variance']
  with h5py.File(path, 'w') as file:
    file.attrs['layer_names'] = [layer.encode() for layer in layers]
    for layer, variables in layers.items():
      variables.sort(key=lambda v: order.index(v) if v in order else len(order))
      group = file.create_group(layer)
      names = [f'{layer}/{variable}:0' for variable in variables]
      group.attrs['weight_names'] = [name.encode() for name in names]
      for name, variable in zip(names, variables, strict=True):
        group.create_dataset(name, data=tensors[f'{layer}/{variable}'])


_WRITERS = {
  '.safetensors': safetensors.numpy.save_file,
  '.npz': _write_npz,
  '.h5': _write_h5,
}
