"""Arrays on disk, found again by the content of what they were computed from."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from tljax import processes
from tljax.data.images import Images
from tljax.errors import InputError
from tljax.method import path_name


def digest(*parts: Any) -> str:
  """Returns a hash of the content of pytrees: 32 hex digits.

  Args:
    *parts: their leaves are arrays, numbers, texts, or `Images`, which tell their
      fingerprint.
  """
  leaves = jax.tree_util.tree_flatten_with_path(parts)[0]
  with (
    concurrent.futures.ThreadPoolExecutor() as threads
  ):  # hashing frees Python's lock
    hashes = threads.map(_hash, *zip(*leaves, strict=True))
    return hashlib.sha256(b''.join(hashes)).hexdigest()[:32]


def _hash(path, leaf):
  leaf = leaf.fingerprint() if isinstance(leaf, Images) else leaf
  array = np.asarray(leaf)
  head = repr((path_name(path), array.dtype.str, array.shape))
  result = hashlib.sha256(head.encode())
  result.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return result.digest()


def cached(
  folder: str | pathlib.Path,
  key: str,
  rows: int,
  blocks: Callable[[], Iterable[np.ndarray]],
) -> np.ndarray:
  """Returns an array that the folder holds, memory-mapped; computes it once.

  The file appears whole or not at all: a run that is killed leaves no part of it to
  be read. Of several processes at once each computes, and the first to end is read.

  Args:
    folder: made where it is missing.
    key: tells apart all that the array depends on; see `digest`.
    rows: length of the array.
    blocks: computes it, block by block of rows; one is in memory at a time.

  Raises:
    InputError: the folder cannot be used, or the disk is full.
  """
  folder = pathlib.Path(folder)
  path = folder / f'{key}.npy'
  try:
    # A file that was cut short later is not mapped, and computed anew.
    found = None
    with contextlib.suppress(FileNotFoundError, ValueError, EOFError):
      found = np.load(path, mmap_mode='r')
    if all(processes.from_all(found is not None)):  # else all share the work
      return found
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, rows, blocks)
    return np.load(path, mmap_mode='r')
  except OSError as error:
    raise InputError(
      f'cannot keep features in {folder} ({error}); choose another --cache'
    ) from error


def _write(path, rows, blocks):
  partial = path.with_name(f'.{path.stem}.{uuid.uuid4().hex}.partial')
  try:
    with open(partial, 'xb') as file:
      _write_blocks(file, rows, blocks)
      file.flush()
      os.fsync(file.fileno())
    with contextlib.suppress(FileNotFoundError):  # see below, in another process
      os.replace(partial, path)
    # What runs that were killed left, and what is now in vain.
    for other in path.parent.glob(f'.{path.stem}.*.partial'):
      other.unlink(missing_ok=True)
  finally:
    partial.unlink(missing_ok=True)


def _write_blocks(file, rows, blocks):
  """Writes NumPy's format. A memory map would die by a signal where a disk is full."""
  written = 0
  for block in blocks():
    if not written:
      header = {
        'descr': np.lib.format.dtype_to_descr(block.dtype),
        'fortran_order': False,
        'shape': (rows, *block.shape[1:]),
      }
      np.lib.format.write_array_header_2_0(file, header)
    file.write(np.ascontiguousarray(block))
    written += len(block)
  if written != rows:
    raise ValueError(f'{written} rows were computed, {rows} wanted')
