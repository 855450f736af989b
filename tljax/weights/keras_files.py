"""Keras' HDF5 files, old and new, and .keras archives, without Keras.

Names become 'layer/variable', as Keras 3 calls the variables: 'conv1/kernel'. A layer
of a model within the model goes by its own name; a layer that is part of another layer
by both.

One limit: HDF5 believes the length of a string that an attribute claims, up to 4 GiB,
and so much memory a forged file can take for a moment.
"""

import io
import json
import math
import pathlib
import re
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
from etils import epy

from tljax.weights.lazy import (
  Refusal,
  Tensors,
  Window,
  check_archive,
  check_size,
  data_start,
  guard,
  unique,
)

with epy.lazy_imports():  # it is slow to import
  import h5py

_WEIGHTS = 'model.weights.h5'  # in a .keras archive
_MAX_ATTRIBUTE = 1 << 20  # bytes
_CHUNK = 1 << 20
_CONTAINERS = ('layers', '_layer_checkpoint_dependencies')
_NO_WEIGHTS = re.compile(r'(optimizer|(compile_)?metrics|seed_generator)(_\d+)?')
# What Keras 1 called the variables; its 'running_std' is the variance.
_KERAS_1 = {
  'W': 'kernel',
  'b': 'bias',
  'gamma': 'gamma',
  'beta': 'beta',
  'running_mean': 'moving_mean',
  'running_std': 'moving_variance',
}
_BATCH_NORM = ('gamma', 'beta', 'moving_mean', 'moving_variance')
# Variables by the name of a layer's class and, where that decides, their number.
_VARIABLES = (
  (r'.*batch_normalization', 4, _BATCH_NORM),
  (r'.*batch_normalization', 3, _BATCH_NORM[1:]),  # scale=False, as in Inception
  (r'.*batch_normalization', 2, _BATCH_NORM[2:]),
  (r'(layer|group)_normalization', None, ('gamma', 'beta')),
  (r'normalization', None, ('mean', 'variance', 'count')),
  (r'separable_conv.*', None, ('depthwise_kernel', 'pointwise_kernel', 'bias')),
  (r'.*(conv|dense).*', None, ('kernel', 'bias')),
  (r'embedding', None, ('embeddings',)),
  (r'layer_scale', None, ('gamma',)),
  (r'p_re_lu', None, ('alpha',)),
)


def read(path: pathlib.Path) -> Tensors:
  """Returns the tensors of a whole model's or of a weights' file, of Keras 1 to 3."""
  with guard(path):
    if path.suffix == '.keras':
      file, stored, given = _open_archive(path)
    else:
      stored = path.stat().st_size
      file, given = Window(path, 0, stored), {}
    _check_heaps(file)
    file = h5py.File(file, 'r')
    datasets = _datasets(file)
    check_size(sum(d.size * d.dtype.itemsize for d in datasets.values()), stored)
    model = file['model_weights'] if 'model_weights' in file else file
    if _strings(model, 'layer_names'):
      config = json.loads(_attribute(file, 'model_config', '{}'))
      named = _legacy_names(model, datasets, set(_models(config)))
    else:
      named = _names(file, datasets, given)
    tensors = unique(named)
    if not tensors:
      raise ValueError('there are no layers in it')
    return Tensors(path, {name: _Loader(data) for name, data in tensors.items()})


class _Loader:
  """Reads a dataset; holds the file open as long."""

  def __init__(self, dataset):
    self._dataset = dataset

  def __call__(self):
    array = self._dataset[()]
    if array.dtype == 'V2' and _attribute(self._dataset, 'dtype') == 'bfloat16':
      array = array.view(jnp.bfloat16)
    return np.asarray(array)


def _open_archive(path):
  """The HDF5 file in an archive, its bytes there, and the names in its config."""
  with zipfile.ZipFile(path) as archive:
    check_archive(archive, compressed=True)
    info = archive.getinfo(_WEIGHTS)
    config = json.loads(archive.read('config.json'))
    if info.compress_type == zipfile.ZIP_STORED:
      file = Window(path, data_start(archive, info), info.file_size)
    else:
      file = io.BytesIO(archive.read(info))
  return file, info.compress_size, dict(_config_names(config, ''))


def _check_heaps(file):
  """Refuses heaps of strings in which HDF5 1.14 would go round in circles."""
  length, at, tail = file.seek(0, io.SEEK_END), 0, b''
  while at < length:
    file.seek(at)
    chunk = tail + file.read(_CHUNK)
    for match in re.finditer(rb'GCOL\x01', chunk):
      file.seek(at - len(tail) + match.start())
      size = int.from_bytes(file.read(16)[8:], 'little')
      if 4096 <= size <= length:  # HDF5 takes no others
        _check_heap(file.read(size - 16))
    at, tail = at + _CHUNK, chunk[-4:]


def _check_heap(heap):
  """Each object has an index, 0 where free, and its size; they fill the heap."""
  at = 0
  while at + 16 <= len(heap):
    index, size = struct.unpack_from('<H6xQ', heap, at)
    size = 16 + -(-size // 8) * 8 if index else size
    if not 16 <= size <= len(heap) - at:
      raise ValueError('a heap of strings is damaged')
    at += size


def _datasets(file) -> 'dict[str, h5py.Dataset]':
  """All datasets by path.

  Raises:
    Refusal: something lies outside of the file.
    ValueError: a group is in itself, or a dataset is no array of numbers.
  """
  found, seen, groups = {}, set(), [('', file)]
  while groups:
    prefix, group = groups.pop()
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
      raise ValueError(f'group {prefix!r} is there twice')
    seen.add(address)
    for key in group:
      path = f'{prefix}{key}'
      if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise Refusal(f'{path!r} is a link, perhaps to another file; copy it in')
      item = group[key]
      if isinstance(item, h5py.Group):
        groups.append((f'{path}/', item))
      elif isinstance(item, h5py.Dataset):
        found[path] = _checked(path, item)
  return found


def _checked(path, dataset):
  if dataset.external or dataset.is_virtual:
    raise Refusal(f'the data of {path!r} lie in another file; copy them in')
  if dataset.dtype.hasobject or dataset.shape is None:
    raise ValueError(f'{path!r} is no array of numbers')
  return dataset


def _attribute(item, name, default=None):
  """An attribute, unless HDF5 would take ages and all memory to read it."""
  if name not in item.attrs:
    return default
  attribute = item.attrs.get_id(name)
  if math.prod(attribute.shape or ()) * attribute.dtype.itemsize > _MAX_ATTRIBUTE:
    raise ValueError(f'attribute {name!r} is too long')
  return item.attrs[name]


def _strings(group, name) -> list[str]:
  """An attribute's strings; Keras splits what is too long for HDF5."""
  values, part = list(_attribute(group, name, ())), 0
  while f'{name}{part}' in group.attrs:
    values += list(_attribute(group, f'{name}{part}'))
    part += 1
  return [_text(value) for value in values]


def _text(value):
  return value.decode() if isinstance(value, bytes) else str(value)


# Keras 1 and 2, and Keras 3 where it writes their format: groups by layer.


def _legacy_names(model, datasets, models):
  prefix = '' if model.name == '/' else 'model_weights/'
  for layer in _strings(model, 'layer_names'):
    weights = unique(
      (name.split(':')[0], datasets[f'{prefix}{layer}/{name}'])
      for name in _strings(model[layer], 'weight_names')
    )
    if layer in models:
      owned = [_within(name, models) for name in weights]
    else:
      shared = len({name.rpartition('/')[0] for name in weights}) == 1
      owned = [_owner(layer, name, shared) for name in weights]
    for (owner, name), dataset in zip(owned, weights.values(), strict=True):
      siblings = {other for of, other in owned if of == owner}
      yield f'{owner}/{_variable(owner, name, dataset, siblings)}', dataset


def _owner(layer, name, shared):
  """The layer and the rest of a weight's name.

  The layer is in it, perhaps numbered ('conv1_1/kernel'), or names the group alone, or
  the group is a model and the name has the layer within.
  """
  inside = re.fullmatch(rf'(?:.*/)?{re.escape(layer)}(?:_\d+)?/(.+)', name)
  if inside:
    owner, _, name = f'{layer}/{inside[1]}'.rpartition('/')
    return owner, name
  owner, _, last = name.rpartition('/')
  alone = not owner or shared or name.startswith(layer)
  return (layer if alone else owner), last


def _within(name, models):
  """The layer, within models, and the rest of a weight's name."""
  name = '/'.join(part for part in name.split('/') if part not in models)
  return tuple(name.rpartition('/')[::2])


def _variable(layer, name, dataset, siblings):
  """A variable as Keras 3 calls it."""
  if name == 'depthwise_kernel' and 'pointwise_kernel' not in siblings:
    return 'kernel'
  layer = re.escape(layer.rpartition('/')[2])
  old = re.fullmatch(rf'{layer}_({"|".join(_KERAS_1)})(_\d+)?', name)
  if old:
    return _KERAS_1[old[1]]
  if layer.endswith('layer_scale') and re.fullmatch(r'[Vv]ariable(_\d+)?', name):
    return 'gamma'  # ConvNeXt's has no name of its own
  # Keras 1 named some kernels after how they were drawn: 'uniform1'.
  is_drawn = re.fullmatch(r'[a-z_]*(uniform|normal)\d*', name) and dataset.ndim > 1
  return 'kernel' if is_drawn else name


# Keras 3: groups by class, numbered; the layer's name is an attribute.


def _names(file, datasets, given):
  groups = {}
  for path, dataset in datasets.items():
    match = re.fullmatch(r'(.+)/vars/(\d+)', path)
    if match and not any(_NO_WEIGHTS.fullmatch(p) for p in match[1].split('/')):
      groups.setdefault(match[1], {})[int(match[2])] = dataset
  for path, variables in groups.items():
    kind = re.sub(r'_\d+$', '', path.rpartition('/')[2])
    names = next(
      names
      for pattern, count, names in (*_VARIABLES, ('.*', None, ()))
      if re.fullmatch(pattern, kind) and count in (None, len(variables))
    )
    layer = _layer_name(file, path, given)
    for i, dataset in variables.items():
      yield f'{layer}/{names[i] if i < len(names) else i}', dataset


def _layer_name(file, path, given):
  """The names of a layer and of the layers it is part of."""
  names, parts = [], path.split('/')
  for i, part in enumerate(parts):
    if part in _CONTAINERS:
      names = []  # what was before is a model
      continue
    here = '/'.join(parts[: i + 1])
    group = file.get(f'{here}/vars')
    name = None if group is None else _attribute(group, 'name')
    names.append(_text(name or given.get(here) or part))
  return '/'.join(names)


def _config_names(config, prefix):
  """Layers' names by path, as Keras 3 numbers the classes; early files lack them."""
  config = config.get('config', {}) if isinstance(config, dict) else {}
  counts = {}
  for layer in config.get('layers', ()) if isinstance(config, dict) else ():
    kind = re.sub(r'\W+', '', layer['class_name'])
    kind = re.sub(r'(.)([A-Z][a-z]+)', r'\1_\2', kind)
    kind = re.sub(r'([a-z])([A-Z])', r'\1_\2', kind).lower()
    count = counts[kind] = counts.get(kind, -1) + 1
    path = f'{prefix}layers/{kind}{f"_{count}" if count else ""}'
    yield path, layer.get('name') or layer['config'].get('name')
    yield from _config_names(layer, f'{path}/')


def _models(config):
  """The names of models within the model."""
  names = dict(_config_names(config, ''))
  return (names[p.rpartition('/layers/')[0]] for p in names if '/layers/' in p)
