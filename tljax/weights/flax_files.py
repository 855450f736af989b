"""Flax' .msgpack files and orbax' folders: arrays by their path, joined by '/'."""

import functools
import mmap
import pathlib
import re

import jax
import msgpack
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from tljax.weights.lazy import Refusal, Tensors, guard, unique

_ARRAY = 1  # flax' extension of msgpack
_EXTENSION = re.compile(rb'[\xd4-\xd8](.)|\xc7.(.)|\xc8..(.)|\xc9....(.)', re.DOTALL)
_CHUNKED = '__msgpack_chunked_array__'  # in its place, a dict of an array's parts
_READ = 1 << 16


def read_msgpack(path: pathlib.Path) -> Tensors:
  """Returns the arrays in what `flax.serialization.to_bytes` wrote."""
  with guard(path):
    with open(path, 'rb') as file:
      view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    unpacker = msgpack.Unpacker(
      view, read_size=_READ, max_buffer_size=len(view) + _READ, strict_map_key=False
    )
    spans = unique(_arrays(view, unpacker, ''))
    if unpacker.tell() != len(view) or not spans:
      raise ValueError('it is not one dict with arrays')
    return Tensors(
      path, {name: functools.partial(_restore, view, *s) for name, s in spans.items()}
    )


def _arrays(view, unpacker, prefix):
  """Yields (name, (start, end)) of the arrays in the dict that begins here."""
  for _ in range(unpacker.read_map_header()):
    key = unpacker.unpack()
    if not isinstance(key, str | int):
      raise ValueError('a key is no string')
    start = unpacker.tell()
    head = view[start : start + 6]
    is_map = head[:1] in b'\xde\xdf' or 0x80 <= head[0] <= 0x8F
    chunked = _CHUNKED.encode() in view[start : start + len(_CHUNKED) + 8]
    if is_map and not chunked:
      yield from _arrays(view, unpacker, f'{prefix}{key}/')
      continue
    unpacker.skip()
    extension = _EXTENSION.match(head)
    if chunked or extension and ord(extension[extension.lastindex]) == _ARRAY:
      yield f'{prefix}{key}', (start, unpacker.tell())


def _restore(view, start, end):
  with memoryview(view) as whole, whole[start:end] as part:
    return np.asarray(serialization.msgpack_restore(part))


def is_orbax(path: pathlib.Path) -> bool:
  """Whether a folder is a checkpoint of orbax, or a step of its manager's."""
  return any((folder / '_METADATA').is_file() for folder in (path, path / 'default'))


def read_orbax(path: pathlib.Path) -> Tensors:
  """Returns the arrays of a checkpoint that `is_orbax`."""
  with guard(path):
    folder = path if (path / '_METADATA').is_file() else path / 'default'
    folder = folder.absolute()
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    tree = checkpointer.metadata(folder).item_metadata.tree
    arrays = unique(_leaves(tree, ()))
    if not arrays:
      raise Refusal('there are no arrays in it; save the parameters')
    return Tensors(
      path,
      {
        name: functools.partial(_restore_leaf, checkpointer, folder, *place)
        for name, place in arrays.items()
      },
    )


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


def _restore_leaf(checkpointer, folder, keys, subtree, i):
  item = jax.tree.map(lambda _: 0, subtree)
  how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), subtree)
  for key in reversed(keys):
    item, how = {key: item}, {key: how}
  args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
  return np.asarray(jax.tree.leaves(checkpointer.restore(folder, args=args))[i])
