"""CSV lists and Parquet files of images."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tljax import data
from tljax.data import tables
from tljax.errors import InputError


@pytest.fixture
def table(tmp_path, paint):
  """Returns a function that writes ten images and a CSV with the given rows."""
  for i in range(10):
    paint(tmp_path / 'files' / f'{i}.png', seed=i)

  def table(text):
    (tmp_path / 'list.csv').write_text(text)
    return str(tmp_path / 'list.csv')

  return table


def rows(*columns):
  return '\n'.join(','.join(map(str, row)) for row in zip(*columns, strict=True)) + '\n'


FILES = [f'files/{i}.png' for i in range(10)]
NAMES = list('abababbbaa')


def test_paths_and_labels(table, tmp_path):
  path = table('image,label\n' + rows(FILES, NAMES))
  whole = tables.read_csv(path)['all']
  assert whole.classes == ('a', 'b')
  assert [whole.classes[k] for k in whole.labels] == NAMES
  assert whole[3] == tmp_path / FILES[3]
  padded = table('image,label\n' + rows(FILES, NAMES).replace('\n', ',,\n'))
  assert tables.read_csv(padded)['all'].fingerprint() == whole.fingerprint()
  assert sum(map(len, data.load(f'csv:{path}', data.Transform(4)).values())) == 10


def test_columns_of_other_names_and_splits(table):
  splits = ['train'] * 6 + ['val'] * 2 + ['test'] * 2
  path = table('n,photo,breed,split\n' + rows(range(10), FILES, NAMES, splits))
  found = tables.read_csv(f'{path}?image=photo&label=breed')
  assert {k: len(s) for k, s in found.items()} == {
    'train': 6,
    'validation': 2,
    'test': 2,
  }


def test_several_classes_of_an_image(table):
  labels = ['a|b', '', 'b', ' a ', 'c|a', 'b|c', 'a', 'c', 'b', '']
  splits = ['train'] * 6 + ['val'] * 2 + ['test'] * 2
  path = table('path,tags,split\n' + rows(FILES, labels, splits))
  found = tables.read_csv(f'{path}?labels=tags')
  train, validation = found['train'], found['validation']
  assert train.classes == validation.classes == ('a', 'b', 'c')
  wanted = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [0, 1, 1]]
  np.testing.assert_array_equal(train.labels, np.array(wanted, bool))
  assert train.labels.dtype == bool and train.label(4) == 'a|c' and not train.label(1)
  np.testing.assert_array_equal(
    train.keep_classes(('c', 'a')).labels, np.array(wanted, bool)[:, [2, 0]]
  )
  loaded = data.load(f'csv:{path}?labels=tags', data.Transform(4))
  assert loaded['test'].is_multi_label and loaded['test'].labels.shape == (2, 3)
  with pytest.raises(InputError, match='--shots counts examples of one class each'):
    loaded['train'].shots(1, 0)


def test_no_class_at_all(table):
  path = table('path,tags\n' + rows(FILES, [''] * 10))
  with pytest.raises(InputError, match='no example has a class; write such as cat'):
    tables.read_csv(f'{path}?labels=tags')


def test_targets_of_a_regression(table):
  path = table('path,age,weight\n' + rows(FILES, range(10), np.linspace(0, 1, 10)))
  one, two = (
    tables.read_csv(f'{path}?target={t}')['all'] for t in ('age', 'age,weight')
  )
  np.testing.assert_array_equal(one.labels, np.arange(10, dtype=np.float32))
  assert two.labels.shape == (10, 2) and two.classes == ()
  assert len(data.load(f'csv:{path}?target=age', data.Transform(4))['train']) == 6


def test_rows_of_features(table):
  text = 'a,age,b\n' + rows(range(10), [2.5] * 10, np.linspace(0, 1, 10))
  path = table(text)
  whole = tables.read_csv(f'{path}?features=all&target=age')['all']
  wanted = np.float32(np.stack([np.arange(10), np.linspace(0, 1, 10)], 1))
  np.testing.assert_array_equal(np.stack([*whole]), wanted)
  np.testing.assert_array_equal(whole.labels, np.full(10, 2.5, np.float32))
  some = tables.read_csv(f'{path}?features=b,age&label=a')['all']
  np.testing.assert_allclose(some[9], [1, 2.5])
  assert some.classes == tuple('0123456789')
  other = tables.read_csv(table(text.replace('2.5', '3')) + '?features=all&target=age')
  assert whole.fingerprint() != other['all'].fingerprint()
  loaded = data.load(f'csv:{path}?features=all&target=age', data.Transform(4))
  assert loaded['train'].images.shape == (6, 2)
  assert loaded['train'].images.dtype == np.float32


@pytest.mark.parametrize(
  ('query', 'named'),
  [
    ('features=all&target=size', "no column 'size'"),
    ('features=a,size&target=b', "no column 'size'"),
    ('features=all&target=b', r"line 3: \['x'\] must be finite numbers"),
  ],
)
def test_bad_features(table, query, named):
  with pytest.raises(InputError, match=named):
    tables.read_csv(table('a,b\n1,2\nx,3\n') + f'?{query}')


@pytest.mark.parametrize(
  ('text', 'named'),
  [
    ('image,label\n', 'lists no image'),
    ('', 'lists no image'),
    ('file_name,x\na.png,1\n', "no column 'label' or 'class'.*there are file_name, x"),
    ('name,label\na.png,1\n', "no column 'image' or 'path'.*image=COLUMN"),
    ('image,label\na.png,\n', "line 2: nothing in column 'label'"),
    ('image,label\na.png,x\nb.png\n', 'line 3: has fewer cells than the header'),
    ('image,label\na.png,x,y\n', 'line 2: has more cells than the header'),
    ('image,label,split\na.png,x\n', 'line 2: has fewer cells than the header'),
    ('image,label\na.png,x\n,y\n', "line 3: nothing in column 'image'"),
    ('image,label\na.png,x\nb.png,y\na.png,y\n', "'a.png' is in line 2 and in line 4"),
    ('image,label,split\na.png,x,dev\n', "line 2: split 'dev' is none of train"),
    ('image,label\na.png,x\nb.png,x\n', r'1 class\(es\)'),
    (
      'image,label,split\na.png,x,train\nb.png,y,train\nc.png,z,test\n',
      "class 'z' is in the test split but not in the training split",
    ),
    ('image,label\n"a.png,x\n', 'cannot be read as CSV'),
  ],
)
def test_bad_lists(table, text, named):
  with pytest.raises(InputError, match=f'list.csv.*{named}') as error:
    tables.read_csv(table(text))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('value', ['tall', 'nan', 'inf'])
def test_targets_that_are_no_numbers(table, value):
  path = table(f'image,age\na.png,1\nb.png,{value}\n')
  with pytest.raises(InputError, match=f'line 3.*{value}.*finite numbers'):
    tables.read_csv(f'{path}?target=age')


def test_bad_specs(table, tmp_path):
  path = table('image,label\na.png,x\nb.png,y\n')
  with pytest.raises(InputError, match="'lable' is none of"):
    tables.read_csv(f'{path}?lable=x')
  with pytest.raises(InputError, match="no column 'size'"):
    tables.read_csv(f'{path}?target=size')
  with pytest.raises(InputError, match='cannot be read as CSV'):
    tables.read_csv(str(tmp_path / 'none.csv'))
  (tmp_path / 'list.csv').write_bytes(b'image,label\n\xff\xfe,x\n')
  with pytest.raises(InputError, match='cannot be read as CSV'):
    tables.read_csv(path)
  path = table('image,label\nnone.png,x\nno.png,y\n')
  with pytest.raises(InputError, match=r'no(ne)?\.png: cannot be read'):
    data.load(f'csv:{path}', data.Transform(4))


def write_parquet(path, files, labels, names=None, struct=True):
  images = [file and file.read_bytes() for file in files]
  if struct:
    images = [
      {'bytes': image, 'path': file and file.name}
      for image, file in zip(images, files, strict=True)
    ]
  table = pyarrow.table({'image': images, 'label': labels})
  if names:
    features = {'label': {'names': names, '_type': 'ClassLabel'}}
    info = json.dumps({'info': {'features': features}})
    table = table.replace_schema_metadata({'huggingface': info})
  path.parent.mkdir(exist_ok=True)
  pyarrow.parquet.write_table(table, path)


@pytest.fixture
def files(tmp_path, table):
  return [tmp_path / name for name in FILES]


@pytest.mark.parametrize('struct', [True, False])
def test_parquet_with_hugging_faces_names(tmp_path, files, struct):
  labels = [0, 1, 2, 0, 1]
  names = ['cat', 'dog', 'cow']
  folder = tmp_path / 'data'
  for part, some in (('train-00000-of-00002', files[:5]), ('test-0', files[5:])):
    write_parquet(folder / f'{part}.parquet', some, labels, names, struct)
  splits = tables.read_parquet(str(folder))
  assert {k: len(s) for k, s in splits.items()} == {'train': 5, 'test': 5}
  train = splits['train']
  assert [train.classes[k] for k in train.labels] == [names[k] for k in labels]
  assert train[2] == files[2].read_bytes()
  loaded = data.load(f'parquet:{folder}', data.Transform(4), validation=0.4)
  assert len(loaded['train']) + len(loaded['validation']) == 5
  assert len(splits['train'].fingerprint()) == 16


def test_parquet_without_names(tmp_path, files):
  write_parquet(tmp_path / 'set.parquet', files, NAMES)
  whole = tables.read_parquet(str(tmp_path / 'set.parquet'))['all']
  assert [whole.classes[k] for k in whole.labels] == NAMES


def test_each_split_of_parquet_has_its_own_order_of_classes(tmp_path, files):
  folder = tmp_path / 'data'
  for split, names in (('train', ['cat', 'dog']), ('test', ['dog', 'cat'])):
    write_parquet(folder / f'{split}.parquet', files, [0, 1] * 5, names)
  splits = tables.read_parquet(str(folder))
  assert splits['train'].classes == ('cat', 'dog')
  assert list(splits['train'].labels) == [0, 1] * 5
  assert list(splits['test'].labels) == [1, 0] * 5
  write_parquet(folder / 'train.parquet', files, [0, 1] * 5)  # as the others say
  splits = tables.read_parquet(str(folder))
  assert splits['train'].classes == ('cat', 'dog')
  assert list(splits['train'].labels) == list(splits['test'].labels) == [1, 0] * 5


@pytest.mark.parametrize('names', [None, ['cat', 'dog']])
@pytest.mark.parametrize('struct', [True, False])
def test_parquet_with_nothing_in_a_row(tmp_path, files, struct, names):
  path = tmp_path / 'set.parquet'
  for labels in ([0, 1, 0, None, 1], [0.0, 1.0, 0.0, float('nan'), 1.0]):
    write_parquet(path, files[:5], labels, names, struct)
    with pytest.raises(InputError, match="parquet, row 3: nothing in column 'label'"):
      tables.read_parquet(str(path))
  write_parquet(path, [*files[:2], None], [0, 1, 0], names, struct)
  with pytest.raises(InputError, match="parquet, row 2: nothing in column 'image'"):
    tables.read_parquet(str(path))


def test_bad_parquet(tmp_path, files):
  path = tmp_path / 'set.parquet'
  write_parquet(path, files, [0, 1, -1, 0, 1] * 2, ['cat', 'dog'])
  with pytest.raises(InputError, match='row 2: label -1 is outside the 2 classes'):
    tables.read_parquet(str(path))
  pyarrow.parquet.write_table(pyarrow.table({'label': [1]}), path)
  with pytest.raises(InputError, match='columns image and label'):
    tables.read_parquet(str(path))
  path.write_bytes(b'PAR1 nothing')
  with pytest.raises(InputError, match='cannot be read as Parquet'):
    tables.read_parquet(str(path))
  with pytest.raises(InputError, match='no .parquet file'):
    tables.read_parquet(str(tmp_path / 'files'))
