"""Readers of published weights: a path to NumPy arrays by name, read when asked for.

Nothing in a file is executed, whatever its format, and a file that is damaged or
forged is an InputError.
"""

import functools
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
import safetensors

from tljax.errors import InputError
from tljax.weights import flax_files, keras_files, tensorflow_files, torch_files
from tljax.weights.lazy import Tensors, check_archive, guard, unique


def read(path: str | pathlib.Path) -> Mapping[str, np.ndarray]:
  """Returns the file's tensors by name, each read when it is asked for.

  Args:
    path: of one of these.
      .safetensors: names as they are.
      .pth, .pt, .th, .bin: PyTorch's, of either format; a state_dict, or a checkpoint
        that holds one under 'state_dict_ema', 'model_ema', 'state_dict', 'model' or
        'ema' (the first that is there, as timm chooses). 'module.' and '_orig_mod.'
        before the names are dropped.
      .h5, .hdf5, .keras: Keras', weights alone or a whole model; 'layer/kernel'.
      .npz: NumPy's; names as they are.
      .msgpack: Flax'; a checkpoint folder: orbax'. Keys joined by '/'.
      .index, a SavedModel's folder: TensorFlow's, which must be installed.

  Raises:
    InputError: the file is missing, of another kind, damaged, or wants anything
      executed; at once or, where a tensor's data are concerned, when it is read.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    if flax_files.is_orbax(path):
      return flax_files.read_orbax(path)
    if tensorflow_files.is_saved_model(path):
      return tensorflow_files.read(path)
    raise InputError(
      f'weights {path}: there is no such file but a folder; '
      'of folders want an orbax checkpoint or a SavedModel'
    )
  reader = _READERS.get(path.suffix)
  if reader is None:
    raise InputError(
      f'weights {str(path)!r}: want a path to one of {", ".join(_READERS)}'
    )
  if not path.is_file():
    raise InputError(f'weights {path}: there is no such file; check the path')
  return reader(path)


def _read_safetensors(path):
  with guard(path):
    with safetensors.safe_open(path, framework='np') as file:
      names = list(file.keys())
    return Tensors(
      path, {n: functools.partial(_load_safetensor, path, n) for n in names}
    )


def _load_safetensor(path, name):
  # Opened anew: what it has read stays in memory as long as it is open.
  with safetensors.safe_open(path, framework='np') as file:
    return file.get_tensor(name)


def _read_npz(path):
  with guard(path):
    archive = zipfile.ZipFile(path)
    check_archive(archive, compressed=True)
    infos = unique((i.filename.removesuffix('.npy'), i) for i in archive.infolist())
    for name, info in infos.items():
      _check_array(name, archive, info)
    return Tensors(
      path,
      {n: functools.partial(_load_array, archive, info) for n, info in infos.items()},
    )


def _check_array(name, archive, info):
  """Refuses a header that tells of objects or of more than there is."""
  formats = np.lib.format
  readers = {
    (1, 0): formats.read_array_header_1_0,
    (2, 0): formats.read_array_header_2_0,
  }
  with archive.open(info) as file:
    shape, _, dtype = readers[formats.read_magic(file)](file)
    if dtype.hasobject:
      raise ValueError(f'array {name!r} holds Python objects')
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if file.tell() + size != info.file_size:
      raise ValueError(f'array {name!r} is not of the size it says')


def _load_array(archive, info):
  with archive.open(info) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


_READERS = {
  '.npz': _read_npz,
  '.safetensors': _read_safetensors,
  **dict.fromkeys(('.pth', '.pt', '.th', '.bin'), torch_files.read),
  **dict.fromkeys(('.h5', '.hdf5', '.keras'), keras_files.read),
  '.msgpack': flax_files.read_msgpack,
  '.index': tensorflow_files.read,
}
