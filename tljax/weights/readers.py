"""Readers of published weight files: a path to a flat dict of NumPy arrays."""

import pathlib
import zipfile

import numpy as np
import safetensors
import safetensors.numpy

from tljax.errors import InputError


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the file's tensors by name. Nothing in the file is executed.

  Args:
    path: a .safetensors or .npz file.

  Raises:
    InputError: the file is missing, of another kind, or damaged.
  """
  path = pathlib.Path(path)
  reader = _READERS.get(path.suffix)
  if reader is None:
    raise InputError(
      f'weights {str(path)!r}: want a path to one of {", ".join(sorted(_READERS))}'
    )
  if not path.is_file():
    raise InputError(f'weights {path}: there is no such file; check the path')
  try:
    return reader(path)
  except (
    safetensors.SafetensorError,
    zipfile.BadZipFile,
    OSError,
    ValueError,
    KeyError,
    EOFError,
  ) as error:
    raise InputError(
      f'weights {path}: damaged or not a {path.suffix} file ({error}); fetch it again'
    ) from error


def _read_npz(path):
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


_READERS = {'.safetensors': safetensors.numpy.load_file, '.npz': _read_npz}
