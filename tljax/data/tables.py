"""Tables: `csv:PATH`, and images in `parquet:PATH` as Hugging Face has them."""

import collections
import csv
import hashlib
import json
import pathlib
import urllib.parse
from collections.abc import Sequence

import numpy as np
from etils import epy

from tljax.data.source import (
  SPLIT_NAMES,
  Source,
  Splits,
  class_labels,
  several_labels,
)
from tljax.errors import InputError

with epy.lazy_imports():  # it is slow to import
  import pyarrow
  import pyarrow.parquet

_IMAGE = ('image', 'path', 'file', 'filename', 'file_name')
_LABEL = ('label', 'class', 'category')


def read_csv(spec: str) -> Splits:
  """Returns the images that a CSV file lists, or rows of features.

  Args:
    spec: PATH, or PATH?image=COLUMN&label=COLUMN; of a regression
      PATH?target=COLUMN[,COLUMN]; PATH?labels=COLUMN where an image may have several
      classes, written cat|dog, or none. By default the columns are called image (or
      path or file) and label (or class). Relative paths start at the file's folder.
      With features=COLUMN[,COLUMN], or features=all for all columns left, examples are
      rows of numbers, in that order. A column 'split' with train, val (or validation)
      and test divides the rows.

  Raises:
    InputError: the file or a column is missing, a row is incomplete or too long, an
      image is listed twice, a split is unknown or a target is no number; the line is
      named.
  """
  path, _, query = spec.partition('?')
  options = dict(urllib.parse.parse_qsl(query))
  known = {'image', 'features', 'label', 'labels', 'target'}
  unknown = sorted(set(options) - known)
  if unknown:
    raise InputError(
      f'csv:{spec}: {unknown[0]!r} is none of image, features, label, labels, target'
    )
  header, rows = _rows(path)
  targets = options['target'].split(',') if 'target' in options else []
  name = options.get('labels', options.get('label'))
  label = None if targets else _column(path, header, name, _LABEL)
  wanted = [_column(path, header, name, ()) for name in targets] or [label]
  filled = [] if 'labels' in options else wanted
  if 'features' in options:
    rest = ','.join(column for column in header if column not in (*wanted, 'split'))
    names = rest if options['features'] == 'all' else options['features']
    inputs = [_column(path, header, name, ()) for name in names.split(',')]
    _check_filled(path, rows, [*inputs, *filled])
  else:
    inputs = [_column(path, header, options.get('image'), _IMAGE)]
    _check_filled(path, rows, [*inputs, *filled])
    _check_unique(path, rows, *inputs)
  members = collections.defaultdict(list)
  for line, row in rows:
    members[_split(path, line, row.get('split'))].append((line, row))
  labels, classes = {}, ()
  if targets:
    for split, group in members.items():
      labels[split] = np.stack([_numbers(path, *line, wanted) for line in group])
      labels[split] = labels[split][:, 0] if len(wanted) == 1 else labels[split]
  else:
    names = {k: np.array([row[label] for _, row in g]) for k, g in members.items()}
    read = several_labels if 'labels' in options else class_labels
    labels, classes = read(names, path)

  def source(split, group):
    if 'features' not in options:
      images = [pathlib.Path(path).parent / row[inputs[0]] for _, row in group]
      return Source(images, labels[split], classes, path)
    array = np.stack([_numbers(path, *line, inputs) for line in group])
    digest = hashlib.sha256(array).hexdigest()
    return Source(array, labels[split], classes, path, digest=digest)

  return {split: source(split, group) for split, group in members.items()}


def _rows(path):
  """The header, and (line number, row) of all rows."""
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file, strict=True)
      rows = [(reader.line_num, row) for row in reader]
  except (OSError, ValueError, csv.Error) as error:
    raise InputError(f'{path}: cannot be read as CSV ({error}); mend it') from error
  for line, row in rows:
    is_long = any(row.get(None, ()))  # DictReader's marks; empty cells do no harm
    if is_long or None in row.values():
      raise InputError(
        f'{path}, line {line}: has {"more" if is_long else "fewer"} cells than the '
        'header; mend it (quote a cell that holds a comma)'
      )
  if not rows:
    raise InputError(f'{path}: lists no image; add rows below the header')
  return reader.fieldnames, rows


def _column(path, header, name, defaults):
  for candidate in [name] if name else defaults:
    if candidate in header:
      return candidate
  wanted = repr(name) if name else ' or '.join(map(repr, defaults))
  raise InputError(
    f'{path}: has no column {wanted} (there are {", ".join(header)}); name it: '
    f'csv:{path}?{"image" if defaults == _IMAGE else "label"}=COLUMN'
  )


def _check_filled(path, rows, columns):
  for line, row in rows:
    for column in columns:
      if not row[column]:
        raise InputError(f'{path}, line {line}: nothing in column {column!r}; fill it')


def _check_unique(path, rows, column):
  seen = {}
  for line, row in rows:
    image = row[column]
    if image in seen:
      raise InputError(
        f'{path}: {image!r} is in line {seen[image]} and in line {line}; keep one'
      )
    seen[image] = line


def _split(path, line, name):
  if name is None:
    return 'all'
  if name not in SPLIT_NAMES:
    raise InputError(
      f'{path}, line {line}: split {name!r} is none of {", ".join(SPLIT_NAMES)}'
    )
  return SPLIT_NAMES[name]


def _numbers(path, line, row, columns):
  try:
    numbers = np.array([float(row[column]) for column in columns], np.float32)
    if np.isfinite(numbers).all():
      return numbers
  except ValueError:
    pass
  raise InputError(
    f'{path}, line {line}: {[row[c] for c in columns]} must be finite numbers'
  )


class _Column(Sequence):
  """Bytes of the images in a column; they stay encoded in memory."""

  def __init__(self, column: 'pyarrow.ChunkedArray'):
    self._column = column

  def __len__(self):
    return len(self._column)

  def __getitem__(self, index):
    return self._column[index].as_py()


def read_parquet(path: str) -> Splits:
  """Returns the images of Parquet files, such as Hugging Face's image folders.

  A column 'image' has encoded files, as bytes or with their names, a column 'label'
  class numbers or names.

  Args:
    path: of one file, or of a folder with 'train-*.parquet', 'test-*.parquet' and
      their like.

  Raises:
    InputError: nothing is there, a file is damaged, a column is missing, or a row has
      nothing in one.
  """
  root = pathlib.Path(path)
  files = sorted(root.rglob('*.parquet')) if root.is_dir() else [root]
  members = collections.defaultdict(list)
  for file in files:
    name = file.name.split('-')[0].removesuffix('.parquet')
    members[SPLIT_NAMES.get(name, 'all')].append(file)
  if len(members) > 1:
    members.pop('all', None)  # what is no split of theirs
  tables = {split: _table(path, group) for split, group in members.items()}
  if not tables:
    raise InputError(f'{path}: there is no .parquet file; check the path')
  names = {split: _class_names(table) for split, table in tables.items()}
  spare = next(filter(None, names.values()), None)  # where a split has none
  labels = {k: _labels(path, table, names[k] or spare) for k, table in tables.items()}
  labels, classes = class_labels(labels, path)
  return {
    split: Source(
      _Column(_images(path, table)),
      labels[split],
      classes,
      path,
      digest=_digest(members[split]),
    )
    for split, table in tables.items()
  }


def _table(path, files):
  try:
    tables = [pyarrow.parquet.read_table(f, columns=['image', 'label']) for f in files]
    return pyarrow.concat_tables(tables)
  except (OSError, pyarrow.ArrowException) as error:
    reason = str(error).split('\n')[0][:200]
    raise InputError(
      f'{path}: cannot be read as Parquet with the columns image and label ({reason})'
    ) from error


def _images(path, table):
  column = table.column('image')
  if pyarrow.types.is_struct(column.type):
    column = column.flatten()[column.type.get_field_index('bytes')]
  return _filled(path, column, 'image')


def _filled(path, column, name):
  empty = np.flatnonzero(column.is_null(nan_is_null=True))
  if len(empty):
    raise InputError(
      f'{path}, row {empty[0]}: nothing in column {name!r}; fill it, or leave '
      'such rows out'
    )
  return column


def _class_names(table):
  """What Hugging Face's metadata calls the classes, if they do."""
  metadata = (table.schema.metadata or {}).get(b'huggingface')
  info = json.loads(metadata)['info'] if metadata else {}
  return info.get('features', {}).get('label', {}).get('names')


def _labels(path, table, names):
  labels = _filled(path, table.column('label'), 'label').to_numpy()
  if not names:
    return labels
  outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
  if len(outside):
    raise InputError(
      f'{path}, row {outside[0]}: label {labels[outside[0]]} is outside the '
      f'{len(names)} classes; leave unlabelled rows out'
    )
  return np.array(names)[labels]


def _digest(files):
  """Hash of the files' footers, which hold every column's size and statistics."""
  digest = hashlib.sha256()
  for file in files:
    digest.update(repr(pyarrow.parquet.read_metadata(file).to_dict()).encode())
  return digest.hexdigest()
