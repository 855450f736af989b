"""Checkpoints of a train state: atomic, asynchronous, exact to resume. Wraps orbax."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
  """The checkpoints of one training run, in a folder of their own.

  A save that is cut short, even by SIGKILL, leaves the earlier checkpoints whole.
  """

  def __init__(self, folder: str | pathlib.Path, *, keep: int = 2):
    """Opens the folder, which is made where it is missing, and keeps the last few."""
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    )
    folder = pathlib.Path(folder).absolute()
    self._manager = ocp.CheckpointManager(folder, options=options)

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint; None where there is none."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any) -> None:
    """Saves a pytree of arrays in the background; a step that is there is kept."""
    if step != self.latest_step():
      self._manager.save(step, args=ocp.args.StandardSave(state))

  def restore(self, like: Any) -> Any:
    """Returns the newest checkpoint: structure, shapes, dtypes, shardings of `like`."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.StandardRestore(abstract)
    return self._manager.restore(self.latest_step(), args=args)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    """Waits until what was saved is on disk."""
    self._manager.close()
