"""Classifies images by a trained network.

python -m experiments.predict --run runs/tuned --images photos/ --out predictions.csv
"""

import csv
import dataclasses
import json
import pathlib
import sys

import numpy as np

from experiments import cli, results, trained
from tljax import processes
from tljax.data import folder, loading
from tljax.data.source import Source
from tljax.errors import InputError


@dataclasses.dataclass(kw_only=True)
class Flags(trained.Flags):
  """Classifies images by a trained network."""

  images: tuple[pathlib.Path, ...]
  """Image files, and folders of such, however deep."""
  out: pathlib.Path
  """File for the predictions: .csv or .json; it must not exist."""


def predict(flags: Flags) -> None:
  if flags.out.suffix not in ('.csv', '.json'):
    raise InputError(f'--out {flags.out} must end in .csv or .json')
  if flags.out.exists():
    raise InputError(f'{flags.out} exists; choose another --out')
  network = trained.load(flags.run, flags.strategy, flags.best)
  paths = find(flags.images)
  source = Source(paths, np.zeros(len(paths), np.int32), (), 'images')
  dataset, corrupt = loading.decode(
    source, network.transform, flags.skip_corrupt, in_memory=False
  )
  for name in corrupt:
    print(f'left out {name}', file=sys.stderr)
  logits, source = network.logits(dataset.images), dataset.images.source
  rows = [
    {'image': source.name(i), **results.describe(row, network)}
    for i, row in enumerate(logits)
  ]
  if processes.is_first():
    write(flags.out, rows)
  print(f'{network.name}: {len(rows)} predictions in {flags.out}', file=sys.stderr)


def find(paths: tuple[pathlib.Path, ...]) -> list[pathlib.Path]:
  """Returns the image files among the paths and in their folders, sorted each.

  Raises:
    InputError: a path does not exist, or a folder holds no image.
  """
  found = []
  for path in paths:
    inside = [path] if path.is_file() else sorted(path.rglob('*'))
    images = [p for p in inside if p.suffix.lower() in folder.EXTENSIONS]
    if not images:
      raise InputError(f'{path}: there is no image; check the path')
    found += images
  return found


def write(path: pathlib.Path, rows: list[dict]) -> None:
  """Writes predictions, a row an image."""
  if path.suffix == '.json':
    path.write_text(json.dumps(rows, indent=2) + '\n')
    return
  with open(path, 'x', newline='', encoding='utf-8', errors='surrogateescape') as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


if __name__ == '__main__':
  cli.main(predict, Flags)
