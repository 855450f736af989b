"""A file's tensors, read one at a time; and what damaged files and archives become."""

import contextlib
import errno
import io
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tljax.errors import InputError

# Weights hardly compress. Beyond this an archive is a bomb, or nothing but zeros.
_MAX_EXPANSION = 16
_FREE = 64 << 20  # bytes that are too few to be one


class Refusal(Exception):
  """What is wrong with a file, and the mend; `guard` adds the path."""


class Tensors(Mapping[str, np.ndarray]):
  """Tensors by name, each read from its file when it is asked for."""

  def __init__(
    self, path: pathlib.Path, loaders: Mapping[str, Callable[[], np.ndarray]]
  ):
    self._path = path
    self._loaders = dict(loaders)

  def __getitem__(self, name: str) -> np.ndarray:
    loader = self._loaders[name]
    with guard(self._path):
      return loader()

  def __contains__(self, name: object) -> bool:
    return name in self._loaders  # Mapping's own would read it

  def __iter__(self) -> Iterator[str]:
    return iter(self._loaders)

  def __len__(self) -> int:
    return len(self._loaders)


@contextlib.contextmanager
def guard(path: pathlib.Path) -> Iterator[None]:
  """Makes an InputError of one line of whatever decoding a file raises.

  The file comes from others and its libraries raise all kinds of exceptions.
  """
  try:
    yield
  except InputError:
    raise
  except Refusal as error:
    raise InputError(f'weights {path}: {_line(error)}') from error
  except Exception as error:
    reason = _line(error)[:200]
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
      raise InputError(f'weights {path}: {reason}; make it readable') from error
    kind = f'a {path.suffix} file' if path.is_file() else 'a checkpoint'
    raise InputError(
      f'weights {path}: damaged or not {kind} ({reason}); fetch it again'
    ) from error


def _line(error):
  return ' '.join(str(error).split()) or type(error).__name__


def unique(pairs) -> dict:
  """A dict of (name, value).

  Raises:
    ValueError: two have one name.
  """
  result = {}
  for name, value in pairs:
    if name in result:
      raise ValueError(f'two tensors are named {name!r}')
    result[name] = value
  return result


def check_size(nbytes: int, stored: int) -> None:
  """Refuses what would unfold into far more memory than is stored."""
  if nbytes > _FREE + _MAX_EXPANSION * stored:
    raise ValueError(f'{stored} bytes claim to hold {nbytes}')


def check_archive(archive: zipfile.ZipFile, *, compressed: bool) -> None:
  """Refuses names and sizes that no honest zip of weights has.

  Args:
    archive: just opened.
    compressed: whether its entries may be.
  """
  infos = archive.infolist()
  unique((info.filename, info) for info in infos)
  length = archive.fp.seek(0, io.SEEK_END)
  kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if compressed else (0,)
  for info in infos:
    parts = info.filename.replace('\\', '/').split('/')
    if '..' in parts or parts[0] == '' or ':' in parts[0]:
      raise ValueError(f'entry {info.filename!r} points outside')
    if info.flag_bits & 1 or info.compress_type not in kinds:
      raise ValueError(f'entry {info.filename!r} is encrypted or compressed')
    if info.compress_type == zipfile.ZIP_STORED and info.file_size > info.compress_size:
      raise ValueError(f'entry {info.filename!r} is shorter than it says')
    if info.header_offset + info.compress_size > length:
      raise ValueError(f'entry {info.filename!r} ends beyond the file')
  check_size(sum(info.file_size for info in infos), length)


def data_start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
  """Offset in the file of a stored entry's bytes; its own header says where."""
  archive.fp.seek(info.header_offset)
  header = archive.fp.read(30)
  if header[:4] != b'PK\x03\x04':
    raise ValueError(f'entry {info.filename!r} has no header')
  name, extra = struct.unpack('<HH', header[26:])
  start = info.header_offset + len(header) + name + extra
  if start + info.file_size > archive.fp.seek(0, io.SEEK_END):
    raise ValueError(f'entry {info.filename!r} ends beyond the file')
  return start


class Window(io.RawIOBase):
  """A part of a file as a file of its own."""

  def __init__(self, path: pathlib.Path, start: int, size: int):
    self._file = open(path, 'rb')
    self._start, self._size, self._at = start, size, 0

  def readable(self):
    return True

  def seekable(self):
    return True

  def seek(self, offset, whence=io.SEEK_SET):
    origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
    self._at = max(0, origin + offset)
    return self._at

  def readinto(self, buffer):
    buffer = memoryview(buffer).cast('B')
    self._file.seek(self._start + self._at)
    count = self._file.readinto(buffer[: max(0, self._size - self._at)])
    self._at += count
    return count

  def close(self):
    self._file.close()
    super().close()
