"""TensorFlow's checkpoints and SavedModels, read by TensorFlow itself, an extra."""

import functools
import pathlib

from tljax.weights.lazy import Refusal, Tensors, guard

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'  # of an object's variable
_NO_WEIGHTS = ('_CHECKPOINTABLE_OBJECT_GRAPH', 'save_counter')


def is_saved_model(path: pathlib.Path) -> bool:
  """Whether a folder is a SavedModel."""
  return (path / 'saved_model.pb').is_file()


def read(path: pathlib.Path) -> Tensors:
  """Returns the variables of a checkpoint, by its .index file, or of a SavedModel.

  The graph of a SavedModel is left alone: nothing is executed.
  """
  with guard(path):
    try:
      import tensorflow as tf
    except ImportError as error:
      raise Refusal(
        "reading it wants TensorFlow; pip install 'tljax[tensorflow]'"
      ) from error
    prefix = path / 'variables' / 'variables' if path.is_dir() else path.with_suffix('')
    checkpoint = tf.train.load_checkpoint(str(prefix))
    dtypes = checkpoint.get_variable_to_dtype_map()
    names = [
      name
      for name, dtype in dtypes.items()
      if dtype != tf.string and name.removesuffix(_SUFFIX) not in _NO_WEIGHTS
    ]
    if not names:
      raise ValueError('there are no variables in it')
    return Tensors(
      path,
      {
        name.removesuffix(_SUFFIX): functools.partial(checkpoint.get_tensor, name)
        for name in names
      },
    )
