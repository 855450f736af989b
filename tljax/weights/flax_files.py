"""Flax' .msgpack files and orbax' folders: arrays by their path, joined by '/'."""

import functools
import io
import json
import math
import pathlib

import jax
import numpy as np
from etils import epy
from flax import serialization

from tljax.weights.lazy import Refusal, Tensors, check_size, guard, unique

with epy.lazy_imports():  # it is slow to import
  import orbax.checkpoint as ocp

_METADATA = '_METADATA'  # the file by which orbax' folders are known
_ARRAY = 1  # flax' extension of msgpack
_CHUNKED = b'\xb9__msgpack_chunked_array__'  # the first key of an array in parts
# msgpack's objects by their first byte: small ones hold their count in it,
_SMALL = (
  (0x7F, 'number', 0),
  (0x8F, 'map', 15),
  (0x9F, 'array', 15),
  (0xBF, 'str', 31),
)
# others in so many bytes after it, or it is fixed.
_LARGE = {
  **{0xC4 + i: ('bytes', 1 << i, 0) for i in range(3)},
  **{0xC7 + i: ('extension', 1 << i, 0) for i in range(3)},
  **{0xD4 + i: ('extension', 0, 1 << i) for i in range(5)},
  **{0xD9 + i: ('str', 1 << i, 0) for i in range(3)},
  **{0xDC + i: ('array', 2 << i, 0) for i in range(2)},
  **{0xDE + i: ('map', 2 << i, 0) for i in range(2)},
  **{0xCA + i: ('number', 0, size) for i, size in enumerate((4, 8, 1, 2, 4, 8))},
  **{0xD0 + i: ('number', 0, 1 << i) for i in range(4)},
  **dict.fromkeys((0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)), ('number', 0, 0)),
}


def read_msgpack(path: pathlib.Path) -> Tensors:
  """Returns the arrays in what `flax.serialization.to_bytes` wrote."""
  with guard(path), open(path, 'rb') as file:
    spans = unique(_arrays(file, ''))
    if file.read(1) or not spans:
      raise ValueError('it is not one dict with arrays')
    for name, (_, end) in spans.items():
      if end > path.stat().st_size:
        raise EOFError(f'{name!r} ends beyond the file')
    return Tensors(
      path, {name: functools.partial(_restore, path, *s) for name, s in spans.items()}
    )


def _arrays(file, prefix):
  """Yields (name, (start, end)) of the arrays in the dict that begins here."""
  kind, count = _head(file)
  if kind != 'map':
    raise ValueError('it is not one dict with arrays')
  for _ in range(count):
    kind, size = _head(file)
    if kind != 'str':
      raise ValueError('a key is no string')
    name = prefix + file.read(size).decode()
    start = file.tell()
    kind, size = _head(file)
    first = file.read(len(_CHUNKED) if kind == 'map' else 1)
    file.seek(start)
    if kind == 'map' and first != _CHUNKED:
      yield from _arrays(file, f'{name}/')
      continue
    _skip(file)
    if kind == 'map' or kind == 'extension' and first[0] == _ARRAY:
      yield name, (start, file.tell())


def _head(file):
  """An object's kind and count: bytes, items of an array or pairs of a map."""
  byte = _number(file, 1)
  for last, kind, mask in _SMALL:
    if byte <= last:
      return kind, byte & mask
  kind, width, size = _LARGE[byte]
  return kind, _number(file, width) if width else size


def _number(file, width):
  digits = file.read(width)
  if len(digits) < width:
    raise EOFError('cut short')
  return int.from_bytes(digits)


def _skip(file):
  """Passes over an object without reading it."""
  left = 1
  while left:
    kind, count = _head(file)
    left -= 1
    if kind in ('array', 'map'):
      left += count * (2 if kind == 'map' else 1)
    else:
      file.seek(count + (kind == 'extension'), io.SEEK_CUR)  # its type is a byte


def _restore(path, start, end):
  with open(path, 'rb') as file:
    file.seek(start)
    return np.asarray(serialization.msgpack_restore(file.read(end - start)))


def is_orbax(path: pathlib.Path) -> bool:
  """Whether a folder is a checkpoint of orbax, or a step of its manager's."""
  return any((folder / _METADATA).is_file() for folder in (path, path / 'default'))


def read_orbax(path: pathlib.Path) -> Tensors:
  """Returns the arrays of a checkpoint that `is_orbax`."""
  with guard(path):
    folder = path if (path / _METADATA).is_file() else path / 'default'
    folder = folder.absolute()
    _check_keys(json.loads((folder / _METADATA).read_bytes()))
    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(folder).tree
    arrays = unique(_leaves(tree, ()))
    if not arrays:
      raise Refusal('there are no arrays in it; save the parameters')
    leaves = [jax.tree.leaves(subtree)[i] for _, subtree, i in arrays.values()]
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    files = (file for file in folder.rglob('*') if file.is_file())
    check_size(size, sum(file.stat().st_size for file in files))
    return Tensors(
      path,
      {
        name: functools.partial(_restore_leaf, handler, folder, *place)
        for name, place in arrays.items()
      },
    )


def _check_keys(metadata):
  """Refuses names that orbax would look for elsewhere."""
  for entry in metadata['tree_metadata'].values():
    for key in entry['key_metadata']:
      if key['key'].startswith('/') or '..' in key['key'].split('/'):
        raise ValueError(f'array {key["key"]!r} points outside')


def _leaves(tree, keys):
  """Yields (name, (keys, the subtree there, the leaf's number in it)).

  A subtree that is no dict, such as an optimiser's tuple, is restored whole.
  """
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from _leaves(value, (*keys, key))
    return
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  for i, (path, leaf) in enumerate(leaves):
    if isinstance(leaf, ocp.metadata.ArrayMetadata):
      rest = jax.tree_util.keystr(path, simple=True, separator='/')
      yield '/'.join([*map(str, keys), *([rest] if rest else [])]), (keys, tree, i)


def _restore_leaf(handler, folder, keys, subtree, i):
  item = jax.tree.map(lambda _: 0, subtree)
  how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), subtree)
  for key in reversed(keys):
    item, how = {key: item}, {key: how}
  args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
  return np.asarray(jax.tree.leaves(handler.restore(folder, args=args))[i])
