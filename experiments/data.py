"""Shows a data set: classes, sizes, corrupt files, duplicates across splits, pictures.

  python -m experiments.data folder:hymenoptera_data --out runs/hymenoptera
  python -m experiments.data folder:pacs/photo folder:pacs/cartoon --out runs/domains

Of two sets it also shows which classes they share.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from experiments import cli
from tljax import plots, report
from tljax.data import loading, survey
from tljax.errors import InputError
from tljax.run import Run

_SHOWN = 12  # pictures of a class, lines of a list


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Shows one data set, or two and what they share."""

  sets: Annotated[tuple[str, ...], tyro.conf.Positional]
  """One set or two: digits, folder:PATH, ...; a wrong name lists all kinds."""
  out: pathlib.Path = pathlib.Path('runs/data')
  """Folder for result.json and report.html."""
  classes: tuple[str, ...] = ()
  """The only classes to look at; by default all."""
  val_fraction: float | None = None
  """Share of the training split that becomes the validation split."""


def data(flags: Flags) -> None:
  if len(flags.sets) not in (1, 2):
    raise InputError(f'name one set or two, not {len(flags.sets)}')
  sets = {spec: _read(spec, flags) for spec in flags.sets}
  run = Run.open(flags.out, {'sets': flags.sets}, resume=True)
  path = run.folder / 'report.html'
  page = report.Page(path, ' and '.join(sets), 'Every image was decoded.')
  result = {spec: _show(spec, splits, page) for spec, splits in sets.items()}
  if len(sets) == 2:
    result['classes'] = survey.overlap(*(result[spec]['classes'] for spec in sets))
    rows = [{'in': k, 'classes': ', '.join(v)} for k, v in result['classes'].items()]
    report.print_table(rows, 'Label overlap')
    page.table('Label overlap', rows)
  run.write_result(result)
  page.save()
  print(f'wrote {path}', file=sys.stderr)


def _read(spec, flags):
  splits = loading.read_splits(spec, flags.classes, flags.val_fraction)
  return {k: survey.survey(source, loading.track) for k, source in splits.items()}


def _show(spec, splits, page):
  """Prints a set, adds it to the page, and returns its figures."""
  counts = {name: split.counts() for name, split in splits.items()}
  classes = list(counts['train'])
  rows = [{'class': k, **{s: str(counts[s][k]) for s in counts}} for k in classes]
  facts = [{'split': name, **split.facts()} for name, split in splits.items()]
  for title, table in ((f'{spec}: examples', rows), ('Images', facts)):
    report.print_table(table, title)
    page.table(title, table)
  corrupt = [message for split in splits.values() for message in split.corrupt]
  pairs = survey.duplicates(splits)
  lists = {'Corrupt images': corrupt, 'In more than one split': map(str, pairs)}
  for title, lines in lists.items():
    lines = list(lines)
    print(f'{title}: {len(lines)}', *lines[:_SHOWN], sep='\n  ')
    if lines:
      table = [{title.lower(): line} for line in lines[:_SHOWN]]
      page.table(title, table, f'{len(lines)} in all.')
  pictures = plots.image_rows(splits['train'].pictures(_SHOWN))
  page.figure('Pictures', pictures, 'Of the training split.')
  return {
    'classes': classes,
    'counts': counts,
    'images': facts,
    'corrupt': corrupt,
    'duplicates': [pair._asdict() for pair in pairs],
  }


if __name__ == '__main__':
  cli.main(data, Flags)
