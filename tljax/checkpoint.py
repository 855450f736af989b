"""Checkpoints of a train state: atomic, asynchronous, exact to resume. Wraps orbax.

Each process writes what its devices hold; the mesh that restores need not be the one
that saved. A folder may be a bucket's, gs://..., which takes gcsfs, else one that all
processes share.
"""

import contextlib
import math
import sys
from typing import Any

import jax
from etils import epath, epy

from tljax import processes
from tljax.errors import InputError
from tljax.method import path_name

with epy.lazy_imports():  # it is slow to import
  import orbax.checkpoint as ocp


def _manager(folder, options):
  manager = ocp.CheckpointManager(folder, options=options)
  # `processes.stop_requests` asks, by a count of its own.
  manager.reached_preemption = lambda step: False
  return manager


class Checkpoints:
  """The checkpoints of one training run, in a folder of their own.

  A save that is cut short, by SIGKILL or a full disk, leaves the earlier ones whole.
  """

  def __init__(self, folder: epath.PathLike, *, keep: int = 2):
    """Opens the folder, which is made where it is missing.

    It keeps the last few checkpoints, and of all the one of the largest figure.
    """
    best = ocp.checkpoint_managers.BestN(
      get_metric_fn=_figure, n=1, keep_checkpoints_without_metrics=False
    )
    options = ocp.CheckpointManagerOptions(
      best_fn=_figure,
      preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
        [ocp.checkpoint_managers.LatestN(keep), best]
      ),
      cleanup_tmp_directories=True,
    )
    folder = epath.Path(folder)
    # A bucket's path is absolute; `absolute` would take it for one of the disk.
    self._folder = folder if folder.is_absolute() else folder.absolute()
    self._manager = _manager(self._folder, options)

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint; None where there is none."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the checkpoint of the largest figure, the last of several such; None
    where none has a figure.
    """
    best = self._manager.best_step()
    has_figure = best and math.isfinite(_figure(self._manager.metrics(best)))
    return best if has_figure else None

  def save(self, step: int, state: Any, figure: float | None = None) -> None:
    """Saves a pytree of arrays in the background; a step that is there is kept.

    Args:
      step: its completed steps.
      state: the pytree.
      figure: the larger, the better the state is; None is worse than any.

    Raises:
      InputError: this or the save before cannot be written.
    """
    if step != self.latest_step():
      with self._writing():
        metrics = {} if figure is None else {'figure': float(figure)}
        args = ocp.args.StandardSave(state)
        self._manager.save(step, args=args, metrics=metrics, force=True)

  def wait(self) -> None:
    """Waits until what was saved is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def restore(self, like: Any) -> Any:
    """Returns the newest checkpoint: structure, shapes, dtypes, shardings of `like`.

    One that cannot be read, be it by one process alone, is set aside for the one before
    it by all of them, and that is said.

    Raises:
      InputError: none can be read.
    """
    args = ocp.args.StandardRestore(jax.tree.map(_abstract, like))
    failed = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      restored, error = None, ''
      try:
        restored = self._read(step, ocp.StandardCheckpointHandler, args)
      except Exception as raised:  # orbax and tensorstore raise all kinds
        error = ' '.join(str(raised).split())[:200] or type(raised).__name__
      failed[step] = next(filter(None, processes.from_all(error)), None)
      if failed[step] is None:
        self._set_aside({k: error for k, error in failed.items() if error})
        return restored
    raise InputError(
      f'{self._folder} has no checkpoint that fits: '
      + '; '.join(f'step {step}: {error}' for step, error in failed.items())
    )

  def restore_part(self, like: Any, step: int | None = None) -> Any:
    """Returns, of a checkpoint, the parts that `like` has, and reads no more.

    Args:
      like: such as `{'params': {'backbone': ...}}` of a train state. Shapes that have
        no sharding go to one device, wherever they were when they were saved.
      step: of the checkpoint; by default the newest.

    Raises:
      InputError: it has not all of them, or in other shapes.
    """
    step = self.latest_step() if step is None else step
    abstract = jax.tree.map(_abstract, like)
    args = ocp.args.PyTreeRestore(
      abstract,
      restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
      partial_restore=True,
    )
    try:
      found = self._read(step, ocp.PyTreeCheckpointHandler, args)
    except ValueError as error:  # of a shape
      raise self._other(step, error) from error
    for path, leaf in jax.tree_util.tree_flatten_with_path(found)[0]:
      if isinstance(leaf, jax.ShapeDtypeStruct):  # orbax leaves what is not there
        raise self._other(step, f'it has no {path_name(path)}')
    return found

  def _other(self, step, what):
    words = ' '.join(str(what).split())
    return InputError(
      f'{self._folder / str(step)} is of another network, or of another version of '
      f'tljax: {words}'
    )

  def _read(self, step, handler, args):
    """Reads this process's part and waits for no other, which may not get so far."""
    mine = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
      primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f'{mine}'
    )
    handler = handler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
      return reader.restore(self._folder / str(step) / 'default', args=args)

  def _set_aside(self, failed):
    """Renames unreadable checkpoints, so that their steps can be saved again."""
    for step, error in failed.items():
      aside = self._folder / f'unreadable-{step}'
      if processes.is_first():
        (self._folder / str(step)).rename(aside)
        print(
          f'the checkpoint of step {step} cannot be read and is now {aside}; '
          f'going on from the one before ({error})',
          file=sys.stderr,
        )
    if failed:
      processes.from_first(lambda: None)  # all wait until it is done
      self._manager.reload()

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except Exception as error:  # orbax and tensorstore raise all kinds
      first = str(error).split('\n')[0][:200]
      raise InputError(
        f'cannot save a checkpoint in {self._folder}: {first}; the one before is '
        'whole: make room, then go on with --resume'
      ) from error

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    """Waits until what was saved is on disk."""
    with self._writing():
      self._manager.close()


def _figure(metrics):
  return (metrics or {}).get('figure', -math.inf)


def _abstract(leaf):
  struct = ocp.utils.to_shape_dtype_struct(leaf)
  if struct.sharding is not None:
    return struct
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=here)
