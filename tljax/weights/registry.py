"""Published weights: where they are, what they are, and fetching them once.

The table is `registry.csv`, a row a file. A hash is 'sha256:' with all of the digest or
the prefix that the publisher prints in the file's name, 'md5:' as Keras publishes, or
empty where the publisher prints none.
"""

import csv
import functools
import hashlib
import os
import pathlib
import sys
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from etils import epy
from rich import progress
from rich.console import Console

from tljax.errors import InputError

with epy.lazy_imports():  # they are slow to import
  import filelock
  import pooch
  import requests

_CHUNK = 1 << 16  # bytes; what a broken download loses at most
_TIMEOUT = 30  # seconds without a byte


class Published(NamedTuple):
  """A published file of weights.

  Attributes:
    model: the architecture; see `models.names`.
    tag: of the weights: 'torchvision/imagenet1k_v1'.
    url: its address.
    hash: see the module.
    megabytes: its size, where published.
    data: what it was trained on.
    top1: ImageNet-1k validation accuracy in percent, as published, or None.
    licence: of the weights or, where they have none of their own, of their code.
    input_size, resize, interpolation: of the images that the accuracy is for.
  """

  model: str
  tag: str
  url: str
  hash: str
  megabytes: float | None
  data: str
  top1: float | None
  licence: str
  input_size: int
  resize: int
  interpolation: str

  @property
  def file(self) -> pathlib.Path:
    """Where the cache has it, or will."""
    suffix = pathlib.PurePosixPath(urllib.parse.urlparse(self.url).path).suffix
    return cache() / f'{self.model}-{self.tag.replace("/", "-")}{suffix}'


def cache() -> pathlib.Path:
  """Folder of fetched weights: $TLJAX_CACHE, or the user's cache folder."""
  return pathlib.Path(os.environ.get('TLJAX_CACHE') or pooch.os_cache('tljax'))


@functools.cache
def table() -> tuple[Published, ...]:
  """All published weights."""
  path = pathlib.Path(__file__).with_name('registry.csv')
  with open(path, newline='') as file:
    return tuple(_row(row) for row in csv.DictReader(file))


def _row(row):
  numbers = {k: float(row[k]) if row[k] else None for k in ('megabytes', 'top1')}
  sizes = {k: int(row[k]) for k in ('input_size', 'resize')}
  return Published(**{**row, **numbers, **sizes})


def published(model: str) -> Sequence[Published]:
  """The published weights of an architecture."""
  return [row for row in table() if row.model == model]


def locate(model: str, source: str | pathlib.Path) -> pathlib.Path:
  """Returns the file of a tag, fetched if need be, or the path as it is.

  Raises:
    InputError: `source` is neither a tag of the model nor a file, or cannot be fetched.
  """
  rows = {row.tag: row for row in published(model)}
  if source in rows:
    return fetch(rows[source])
  path = pathlib.Path(source)
  if isinstance(source, str) and not path.suffix and not path.exists():
    tags = ', '.join(rows) or 'none'
    raise InputError(
      f'weights {source!r}: neither a file nor published for {model} ({tags}); '
      'give a path or one of these'
    )
  return path


def fetch(row: Published) -> pathlib.Path:
  """Downloads a file into the cache, once; verified, and resumed where it broke off.

  Other processes that want it meanwhile, of this run or another, wait for it.

  Raises:
    InputError: it cannot be downloaded (the message says which file to put where), or
      it is not the published one.
  """
  path = row.file
  if path.exists():
    return path
  try:
    # pooch is told no hash: it knows no prefixes. `_download` hands over nothing that
    # is not verified.
    pooch.get_logger().setLevel('WARNING')
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f'{path.name}.lock')):
      pooch.retrieve(
        row.url,
        known_hash=None,
        fname=path.name,
        path=path.parent,
        downloader=functools.partial(_download, row),
      )
    return path
  except (requests.RequestException, OSError) as error:
    reason = str(error).split('\n')[0]
    raise InputError(
      f'cannot fetch {row.url} ({reason}); fetch it elsewhere and put it at {path}'
    ) from error


def _download(row, url, output_file, _):
  """Downloads by way of a partial file that a later call goes on with."""
  partial = row.file.with_name(f'{row.file.name}.partial')
  have = partial.stat().st_size if partial.exists() else 0
  headers = {'Range': f'bytes={have}-'} if have else {}
  with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
    if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
      rest, total = (), have  # all of it was there
    else:
      answer.raise_for_status()
      if answer.status_code != requests.codes.partial_content:
        have = 0  # the server sends it all again
      rest = answer.iter_content(_CHUNK)
      length = answer.headers.get('Content-Length')
      total = have + int(length) if length else None
    with open(partial, 'ab' if have else 'wb') as file, _bar() as bar:
      task = bar.add_task(f'{row.model} {row.tag}', total=total, completed=have)
      for chunk in rest:
        file.write(chunk)
        bar.advance(task, len(chunk))
  if total is not None and partial.stat().st_size != total:
    raise OSError(f'it broke off at {partial.stat().st_size} of {total} bytes')
  _verify(row, partial)
  os.replace(partial, output_file)


def _verify(row, path):
  """Raises InputError, and removes the file, unless it has the published hash."""
  kind, _, wanted = row.hash.partition(':')
  with open(path, 'rb') as file:
    have = hashlib.file_digest(file, kind or 'sha256').hexdigest()
  if not wanted:
    print(f'{row.url}: no hash is published; its sha256 is {have}', file=sys.stderr)
  elif not have.startswith(wanted):
    path.unlink()
    raise InputError(
      f'{row.url} is not the published file ({kind} {have[: len(wanted)]}, published '
      f'{wanted}); it was removed, try again'
    )


def _bar():
  console = Console(stderr=True)
  return progress.Progress(
    progress.TextColumn('{task.description}'),
    progress.BarColumn(),
    progress.DownloadColumn(),
    progress.TransferSpeedColumn(),
    progress.TimeRemainingColumn(),
    console=console,
    disable=not console.is_terminal,
  )
