"""`tfds:NAME`: sets that tensorflow-datasets has prepared, read without TensorFlow."""

import pathlib
from collections.abc import Sequence

import numpy as np

from tljax.data.source import SPLIT_NAMES, Source, Splits, class_labels
from tljax.errors import InputError


class _Examples(Sequence):
  """Encoded images of a data source."""

  def __init__(self, source, key):
    self._source, self._key = source, key

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    return self._source[index][self._key]


def read(name: str) -> Splits:
  """Returns the splits of a prepared set; its images stay encoded on disk.

  A split without labels, such as the test split of imagenet2012, is left out.

  Args:
    name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION in $TFDS_DATA_DIR, or the folder of
      a prepared version.

  Raises:
    InputError: there is no such set, it is not prepared or not as array_record, or it
      has no images with class labels, or some of a split have none.
  """
  import tensorflow_datasets as tfds

  try:
    is_folder = pathlib.Path(name).is_dir()
    builder = (tfds.builder_from_directory if is_folder else tfds.builder)(name)
  except (tfds.core.DatasetNotFoundError, OSError, ValueError) as error:
    reason = str(error).split('\n')[0][:150]
    raise InputError(f'tfds:{name}: there is no such set ({reason})') from error
  image, label = builder.info.supervised_keys or ('image', 'label')
  features = dict(builder.info.features)
  if not (
    isinstance(features.get(image), tfds.features.Image)
    and isinstance(features.get(label), tfds.features.ClassLabel)
  ):
    raise InputError(
      f'tfds:{name}: wants images with class labels, has {", ".join(features)}'
    )
  decoders = {image: tfds.decode.SkipDecoding()}
  try:
    sources = {
      SPLIT_NAMES[split]: builder.as_data_source(split, decoders=decoders)
      for split in builder.info.splits
      if split in SPLIT_NAMES
    }
  except (AssertionError, NotImplementedError, ValueError) as error:
    raise _unprepared(name) from error
  if not sources:
    raise _unprepared(name)
  numbers = {
    split: np.array([source[i][label] for i in range(len(source))])
    for split, source in sources.items()
  }
  numbers = {split: of for split, of in numbers.items() if np.any(of >= 0)}
  if not numbers:
    raise InputError(f'tfds:{name}: no example has a label; choose another set')
  for split, of in numbers.items():
    if np.any(of < 0):  # -1 is no label
      raise InputError(
        f'tfds:{name}: row {np.argmin(of)} of the {split} split has no label; '
        'prepare the set without such rows'
      )
  sources = {split: sources[split] for split in numbers}
  if len(sources) == 1:
    (split,) = sources
    sources, numbers = {'all': sources[split]}, {'all': numbers[split]}
  names = np.array(features[label].names)
  labels = {split: names[of] for split, of in numbers.items()}
  labels, classes = class_labels(labels, f'tfds:{name}')
  return {
    split: Source(
      _Examples(source, image),
      labels[split],
      classes,
      f'tfds:{name}',
      digest=f'{builder.info.full_name} {split}',
    )
    for split, source in sources.items()
  }


def _unprepared(name):
  return InputError(
    f"tfds:{name}: is not prepared as array_record; pip install 'tljax[tensorflow]', "
    'then python -c "import tensorflow_datasets as tfds; tfds.builder('
    f"'{name}', file_format='array_record').download_and_prepare()\""
  )
