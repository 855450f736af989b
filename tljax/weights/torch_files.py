"""PyTorch's .pth files, of the zip format and the older stream, without PyTorch."""

import functools
import io
import math
import mmap
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tljax.weights import torch_pickle
from tljax.weights.lazy import (
  Refusal,
  Tensors,
  check_archive,
  data_start,
  guard,
  unique,
)
from tljax.weights.torch_pickle import Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_CHUNK = 1 << 20
_MAX_RANK = 64  # NumPy's
# Where a training keeps the weights, the first that is there; the order is timm's
# (averages of the weights before the weights), which knows no 'ema'.
_WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'ema')
# What data parallelism and compilation put before every name; timm's order.
_PREFIXES = ('_orig_mod.', 'module.', '_orig_mod.')


class Record(NamedTuple):
  """A storage's bytes in the file; `crc` is None where the file has none."""

  start: int
  size: int
  crc: int | None


def read(path: pathlib.Path) -> Tensors:
  """Returns the tensors of a state_dict, or of a checkpoint that holds one.

  Entries beside it, such as an optimiser's, are left out. See `torch_pickle` for what
  is refused.
  """
  with guard(path):
    with open(path, 'rb') as file:
      is_zip = file.read(4) == b'PK\x03\x04'
    content, records = _read_zip(path) if is_zip else _read_stream(path)
    tensors = unique((_clean(k), v) for k, v in _unwrap(content).items())
    for name, tensor in tensors.items():
      _check(name, tensor, records, path.stat().st_size)
    verified = set()
    return Tensors(
      path,
      {
        name: functools.partial(
          _load, path, tensor, records[tensor.storage.key], verified
        )
        for name, tensor in tensors.items()
      },
    )


def _read_zip(path):
  """The content of data.pkl, and where the storages lie."""
  with zipfile.ZipFile(path) as archive:
    check_archive(archive, compressed=False)
    infos = {info.filename: info for info in archive.infolist()}
    folders = [name.split('/')[0] for name in infos if name.count('/') == 1]
    folders = [folder for folder in folders if f'{folder}/data.pkl' in infos]
    if not folders:
      raise ValueError('there is no data.pkl in it')
    folder = folders[0]
    if f'{folder}/constants.pkl' in infos:
      raise Refusal(
        'a TorchScript program; load it with torch.jit.load and save its state_dict'
      )
    has_crc = any(info.CRC for info in infos.values())  # PyTorch can leave them out

    def record(name):
      info = infos[f'{folder}/{name}']
      crc = info.CRC if has_crc else None
      return Record(data_start(archive, info), info.file_size, crc)

    if f'{folder}/byteorder' in infos:
      _check_byte_order(_read_record(path, record('byteorder')) == b'little')
    pickled = io.BytesIO(_read_record(path, record('data.pkl')))
    content, storages = torch_pickle.load(pickled)
    return content, {key: record(f'data/{key}') for key in storages}


def _read_stream(path):
  """Four pickles, the keys of the storages, and each one's count and bytes."""
  with open(path, 'rb') as file:
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  with view:
    if torch_pickle.load(view)[0] != _MAGIC:
      raise ValueError('it does not begin as PyTorch does')
    if torch_pickle.load(view)[0] != _PROTOCOL:
      raise ValueError('of an unknown protocol')
    system = torch_pickle.load(view)[0]
    _check_byte_order(system['little_endian'] is True)
    content, storages = torch_pickle.load(view)
    keys = torch_pickle.load(view)[0]
    if not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(
      storages
    ):
      raise ValueError('the storages are not those that the tensors name')
    records = {}
    for key in keys:
      (count,) = struct.unpack('<q', view.read(8))
      size = count * storages[key].dtype.itemsize
      if not 0 <= size <= len(view) - view.tell():
        raise ValueError(f'storage {key!r} ends beyond the file')
      records[key] = Record(view.tell(), size, None)
      view.seek(size, io.SEEK_CUR)
  return content, records


def _check_byte_order(is_little):
  if not is_little:
    raise Refusal('written on a big-endian machine; save it on a little-endian one')


def _unwrap(content) -> Mapping[str, Tensor]:
  """The state_dict in a checkpoint."""
  for _ in _WRAPPERS:  # in one another, but a dict may also hold itself
    inner = content if isinstance(content, dict) else {}
    inner = [inner[key] for key in _WRAPPERS if isinstance(inner.get(key), dict)]
    content = inner[0] if inner else content
  if isinstance(content, dict):
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if tensors:
      return tensors
  raise Refusal(
    'there is no state_dict in it; save one: torch.save(model.state_dict(), path)'
  )


def _clean(name):
  for prefix in _PREFIXES:
    name = name.removeprefix(prefix)
  return name


def _extent(tensor):
  """The end of its numbers in the storage, in elements from its offset."""
  if 0 in tensor.shape:
    return 0
  steps = zip(tensor.shape, tensor.strides, strict=True)
  return 1 + sum((n - 1) * stride for n, stride in steps)


def _check(name, tensor, records, length):
  """Refuses a tensor that reaches outside of its storage, or exceeds the file."""
  storage, offset, shape, strides = tensor
  itemsize = storage.dtype.itemsize
  if (
    not len(shape) == len(strides) <= _MAX_RANK
    or min((offset, storage.count, *shape, *strides)) < 0
    or offset + _extent(tensor) > storage.count
    or storage.count * itemsize > records[storage.key].size
    or math.prod(shape) * itemsize > length
  ):
    raise ValueError(f'tensor {name!r} reaches outside of its storage')


def _load(path, tensor, record, verified):
  """One tensor; the bytes are read anew each time, and checked the first time."""
  dtype = tensor.storage.dtype
  extent = _extent(tensor)
  with open(path, 'rb') as file:
    if record not in verified:
      _verify(file, record)
      verified.add(record)
    numbers = np.empty(extent, dtype)
    file.seek(record.start + tensor.offset * dtype.itemsize)
    if file.readinto(numbers.view(np.uint8)) != numbers.nbytes:
      raise EOFError('cut short')
  strides = [stride * dtype.itemsize for stride in tensor.strides]
  view = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides)
  return view if view.size == numbers.size else view.copy()


def _read_record(path, record):
  with open(path, 'rb') as file:
    _verify(file, record)
    file.seek(record.start)
    return file.read(record.size)


def _verify(file, record):
  if record.crc is None:
    return
  file.seek(record.start)
  crc, left = 0, record.size
  while left:
    chunk = file.read(min(left, _CHUNK))
    if not chunk:
      raise EOFError('cut short')
    crc, left = zlib.crc32(chunk, crc), left - len(chunk)
  if crc != record.crc:
    raise ValueError('a checksum is wrong')
