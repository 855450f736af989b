"""Sets in one file of arrays: `npz:PATH`, `mat:PATH`, `h5:PATH` and MNIST's idx."""

import gzip
import hashlib
import math
import pathlib
import zlib

import numpy as np
from etils import epy

from tljax.data.source import SPLIT_NAMES, Source, Splits, class_labels
from tljax.errors import InputError

with epy.lazy_imports():  # they are slow to import
  import h5py
  from scipy import io

_FEATURES = ('features', 'feas', 'fts')
_IMAGES = ('image', 'images', 'x', 'data', *_FEATURES)
_LABELS = ('label', 'labels', 'y', 'target', 'targets')
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zlib.error)
_IDX_TYPES = {0x08: '>u1', 0x09: '>i1', 0x0B: '>i2', 0x0C: '>i4', 0x0D: '>f4'}


def read_npz(path: str) -> Splits:
  """Returns the examples of a NumPy archive.

  It holds 'image' and 'label' (or 'images' and 'labels', or 'x' and 'y'), or one such
  pair a split: 'x_train', 'y_train', 'x_test', 'train_images', 'test_labels', ...
  Images are (N, H, W) or (N, H, W, C), uint8, or floats in [0, 1]; float rows (N, D)
  are features. Integer or string labels are classes, bools (N, K) any number of K
  classes, floats a regression's targets.

  Raises:
    InputError: it is missing or damaged, or its arrays are of other shapes.
  """

  def arrays(file):
    with np.load(file, allow_pickle=False) as archive:
      return dict(archive)

  found = _read(path, arrays)
  pairs = {}
  for name, array in found.items():
    split, kind = _split_and_kind(name)
    if kind:
      pairs.setdefault(split, {})[kind] = array
  return _splits(pairs, path, sorted(found))


def read_mat(path: str) -> Splits:
  """Returns the examples of a MATLAB file (version 4 to 7.2), as Office-Caltech's are.

  See `read_npz` for the arrays; labels are (N, 1) or (1, N) of whole numbers.

  Raises:
    InputError: it is missing or damaged, of version 7.3, or its arrays are of other
      shapes.
  """

  def arrays(file):
    try:
      return io.loadmat(file)
    except NotImplementedError as error:
      raise InputError(f"{path}: of version 7.3; save it with MATLAB's -v7") from error

  pairs = {}
  for name, array in _read(path, arrays).items():
    split, kind = _split_and_kind(name)
    if kind == 'label':
      array = array.ravel()
      array = np.int64(array) if np.all(array == np.round(array)) else array
    if kind:
      pairs.setdefault(split, {})[kind] = array
  return _splits(pairs, path, sorted(pairs))


def read_h5(path: str) -> Splits:
  """Returns the examples of an HDF5 file, as USPS is published.

  It holds groups 'train' and 'test' with 'data' and 'target', or these at its root;
  see `read_npz` for the shapes. Rows (N, H * H) of uint8, or of floats in [0, 1], are
  square grey images, unless they are called features.

  Raises:
    InputError: it is missing or damaged, or its arrays are of other shapes.
  """

  def arrays(file):
    pairs, words = {}, set()
    with h5py.File(file, 'r') as root:
      groups = {SPLIT_NAMES[k]: root[k] for k in root if k in SPLIT_NAMES}
      for split, group in (groups or {'all': root}).items():
        for name in group:
          words.update(name.lower().split('_'))
          if _split_and_kind(name)[1]:
            pairs.setdefault(split, {})[_split_and_kind(name)[1]] = group[name][()]
    return pairs, words

  pairs, words = _read(path, arrays)
  rows = {split: pair['image'] for split, pair in pairs.items() if 'image' in pair}
  if words.isdisjoint(_FEATURES) and all(map(_are_squares, rows.values())):
    for split, array in rows.items():
      side = math.isqrt(array.shape[1])
      pairs[split]['image'] = array.reshape(-1, side, side)
  return _splits(pairs, path, sorted(pairs))


def read_idx(path: str) -> Splits:
  """Returns the examples of MNIST's own files, gzipped or not.

  Args:
    path: of the file of images, beside which that of the labels lies; or of a folder
      with 'train-images-idx3-ubyte.gz' and its like, 't10k' being the test split.

  Raises:
    InputError: a file is missing, damaged or of another format.
  """
  root = pathlib.Path(path)
  files = sorted(root.glob('*images*idx3*')) if root.is_dir() else [root]
  pairs = {}
  for file in files:
    split = 'test' if 't10k' in file.name else 'train'
    labels = file.with_name(
      file.name.replace('images', 'labels').replace('idx3', 'idx1')
    )
    pairs[split] = {'image': _read(file, _idx), 'label': _read(labels, _idx)}
  if len(pairs) == 1:
    pairs = {'all': next(iter(pairs.values()))}
  return _splits(pairs, path, [file.name for file in files])


def _read(path, reader):
  """What the reader returns; what is wrong with the file as an InputError."""
  if not pathlib.Path(path).is_file():
    raise InputError(f'{path}: there is no such file; check the path')
  try:
    return reader(path)
  except _DAMAGED as error:
    reason = str(error).split('\n')[0][:200]
    raise InputError(
      f'{path}: damaged or of another format ({reason}); fetch it again'
    ) from error


def _idx(path):
  data = pathlib.Path(path).read_bytes()
  data = gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data
  if len(data) < 4 or data[:2] != b'\0\0' or data[2] not in _IDX_TYPES:
    raise ValueError('it does not begin as idx does')
  shape = np.frombuffer(data, '>u4', data[3], 4)
  return np.frombuffer(data, _IDX_TYPES[data[2]], offset=4 + 4 * data[3]).reshape(shape)


def _split_and_kind(name):
  """('train', 'image') of 'x_train' or 'train_images'; kind None is of no use."""
  parts = name.lower().split('_')
  splits = [SPLIT_NAMES[part] for part in parts if part in SPLIT_NAMES]
  kinds = ['image' for part in parts if part in _IMAGES]
  kinds += ['label' for part in parts if part in _LABELS]
  return splits[0] if splits else 'all', kinds[0] if kinds else None


def _are_squares(rows):
  return (
    rows.ndim == 2
    and rows.size
    and math.isqrt(rows.shape[1]) ** 2 == rows.shape[1]
    and (rows.dtype == np.uint8 or (0 <= rows.min() and rows.max() <= 1))
  )


def _splits(pairs, path, names):
  for split, pair in pairs.items():
    if len(pair) < 2:
      (have,) = pair
      raise InputError(f'{path}: the {split} split has an array of {have}s alone')
    if pair['label'].ndim == 2 and pair['label'].shape[1] == 1:
      pair['label'] = pair['label'][:, 0]
    if len(pair['image']) != len(pair['label']):
      raise InputError(
        f'{path}: {len(pair["image"])} images but {len(pair["label"])} labels in the '
        f'{split} split; there must be one each'
      )
  if not pairs:
    raise InputError(
      f'{path}: holds {", ".join(names) or "nothing"}; want arrays named image and '
      'label, or x_train, y_train, x_test, ...'
    )
  labels = {split: pair['label'] for split, pair in pairs.items()}
  if any(np.issubdtype(values.dtype, np.floating) for values in labels.values()):
    labels, classes = {k: np.float32(v) for k, v in labels.items()}, ()
  elif all(v.dtype == bool and v.ndim == 2 for v in labels.values()):
    (count,) = {values.shape[1] for values in labels.values()}
    classes = tuple(map(str, range(count)))
  elif any(values.ndim != 1 for values in labels.values()):
    raise InputError(f'{path}: class labels must be one integer or string an example')
  else:
    labels, classes = class_labels(labels, str(path))
  return {
    split: Source(
      images := _to_images(pair['image'], path),
      labels[split],
      classes,
      str(path),
      digest=hashlib.sha256(np.ascontiguousarray(images)).hexdigest(),
    )
    for split, pair in pairs.items()
  }


def _to_images(array, path):
  """Images as uint8; features (N, D) as float32."""
  is_image = array.ndim == 3 or array.ndim == 4 and array.shape[-1] in (1, 3)
  if array.ndim == 2 and np.issubdtype(array.dtype, np.number):
    return array.astype(np.float32)
  if is_image and array.dtype == np.uint8:
    return array
  if is_image and np.issubdtype(array.dtype, np.floating):
    if 0 <= array.min() and array.max() <= 1:
      return np.uint8(np.round(array * 255))
  raise InputError(
    f'{path}: images {array.shape} {array.dtype}; want (N, H, W) or (N, H, W, 1 or 3), '
    'uint8 or floats in [0, 1]; or features (N, D)'
  )
