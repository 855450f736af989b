"""The run folder: configuration, metrics, checkpoints, result."""

import fcntl
import functools
import json
import math
import os
import pathlib
import re
import tempfile
from typing import Any

from tljax import processes
from tljax.errors import InputError


class Run:
  """One run's folder. It never mixes two configurations and overwrites no run.

  Of several processes the first alone writes it, the checkpoints apart; what the others
  write goes to a folder of their own that does not outlive them.
  """

  def __init__(self, folder: pathlib.Path, shared: pathlib.Path | None = None):
    self.folder = folder
    self._shared = shared or folder

  @classmethod
  def open(cls, folder: str | pathlib.Path, config: dict, *, resume: bool) -> 'Run':
    """Starts a run in a new or empty folder, or goes on with the one that is there.

    Args:
      folder: made where it is missing; on a disk that all processes share.
      config: all that decides the run's result, JSON values.
      resume: go on with the run in the folder, if there is one.

    Raises:
      InputError: the folder holds something else, or a run and `resume` is False, or
        another process is at work in it; or it is a bucket's.
    """
    if re.match('[a-z0-9]{2,}:/', str(folder)):  # not to make a folder called gs:
      raise InputError(
        f'--out {folder}: a bucket is no folder; mount it, as by gcsfuse, and give that'
      )
    folder = pathlib.Path(folder)
    config = json.loads(json.dumps(config))
    written = processes.from_first(lambda: _open(folder, config, resume))
    if processes.is_first():
      return cls(folder)
    own = pathlib.Path(_scratch().name)
    _write(own / 'metrics.jsonl', written)
    return cls(own, shared=folder)

  def checkpoints(self, name: str) -> pathlib.Path:
    """Folder of the checkpoints of the training `name`."""
    return self._shared / 'checkpoints' / name

  def records(self, name: str | None = None) -> list[dict]:
    """Lines of metrics.jsonl, of all trainings or one, less a torn last line."""
    path = self.folder / 'metrics.jsonl'
    lines = path.read_text().split('\n')[:-1] if path.exists() else []
    records = [json.loads(line) for line in lines]
    return [r for r in records if name in (None, r['run'])]

  def log(self, name: str, record: dict) -> None:
    """Appends a record of the training `name` to metrics.jsonl."""
    with open(self.folder / 'metrics.jsonl', 'a') as file:
      file.write(json.dumps({'run': name} | record | {'run': name}) + '\n')

  def rewind(self, name: str, step: int) -> None:
    """Drops the records of the training `name` that come after `step`."""
    kept = [r for r in self.records() if r['run'] != name or r['step'] <= step]
    text = ''.join(json.dumps(record) + '\n' for record in kept)
    _write(self.folder / 'metrics.jsonl', text)

  def write_result(self, result: dict[str, Any]) -> None:
    """Writes the final figures to result.json, null for what is not a number."""
    text = json.dumps(_without_nan(result), indent=2, allow_nan=False)
    _write(self.folder / 'result.json', text + '\n')


def _open(folder, config, resume):
  """See `Run.open`; returns what metrics.jsonl holds."""
  path, metrics = folder / 'config.json', folder / 'metrics.jsonl'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists() and any(not x.name.startswith('.') for x in folder.iterdir()):
      raise InputError(f'{folder} is not empty and holds no run; choose another --out')
    _lock(folder.resolve())
    if path.exists():
      _check_same(folder, json.loads(path.read_text()), config, resume)
    else:
      _write(path, json.dumps(config, indent=2) + '\n')
    return metrics.read_text() if metrics.exists() else ''
  except (OSError, json.JSONDecodeError) as error:
    raise InputError(f'cannot use --out {folder}: {error}; choose another') from error


@functools.cache
def _lock(folder):
  """Keeps other processes out until this one ends, however it does."""
  file = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT)
  try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError) as error:
    os.close(file)
    raise InputError(
      f'another process is at work in {folder}; wait, or choose another --out'
    ) from error


@functools.cache
def _scratch():
  """A folder that goes when this process does."""
  return tempfile.TemporaryDirectory(prefix='tljax-')


def _check_same(folder, before, config, resume):
  changed = sorted(
    key for key in before.keys() | config.keys() if before.get(key) != config.get(key)
  )
  if changed:
    key = changed[0]
    raise InputError(
      f'{folder} holds a run of another configuration ({key}: {before.get(key)!r} '
      f'there, {config.get(key)!r} now); choose another --out'
    )
  if not resume:
    raise InputError(
      f'{folder} holds this run already; go on with it by --resume, '
      'or choose another --out'
    )


def _without_nan(value):
  """JSON has no word for NaN or infinity, at which other readers than Python's stop."""
  if isinstance(value, dict):
    return {key: _without_nan(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path, text):
  """Writes a file whole or not at all."""
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text)
  os.replace(partial, path)
