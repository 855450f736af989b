"""Judges a trained network on labelled images, and shows what it gets wrong and why.

python -m experiments.evaluate --run runs/tuned --data folder:pets --out runs/judged
"""

import dataclasses
import pathlib
import sys

from experiments import cli, judgement, trained
from tljax import report
from tljax.data import loading
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.run import Run


@dataclasses.dataclass(kw_only=True)
class Flags(trained.Flags):
  """Judges a trained network on labelled images."""

  data: str
  """Labelled images of the network's classes, or targets: folder:PATH, csv:PATH, ..."""
  out: pathlib.Path
  """Folder for result.json and report.html."""
  split: str | None = None
  """Split of the set; by default its test split, else its validation split."""


def evaluate(flags: Flags) -> None:
  network = trained.load(flags.run, flags.strategy, flags.best)
  split, dataset = read(flags, network)
  config = {'run': str(flags.run), 'network': network.name, 'data': flags.data}
  config |= {'split': split, **({'best': True} if flags.best else {})}
  run = Run.open(flags.out, config, resume=True)
  title = f'{network.name} on {flags.data}, {split}'
  page = report.Page(run.folder / 'report.html', title, f'{len(dataset)} images.')
  run.write_result(judgement.show(page, title, network, dataset))
  page.save()
  print(f'wrote {run.folder / "report.html"}', file=sys.stderr)


def read(flags: Flags, network: trained.Trained) -> tuple[str, Dataset]:
  """Returns the split's name and its images, labelled in the network's order."""
  splits = loading.read(flags.data)
  if not splits.keys() <= {'validation', 'test'}:  # nothing is trained on here
    splits = loading.split(splits)
  split = flags.split or ('test' if 'test' in splits else 'validation')
  if split not in splits:
    raise InputError(f'{flags.data} has no split {split!r}, but {", ".join(splits)}')
  source, names = splits[split], network.classes
  several = source.labels.dtype == bool
  has, gives = _kind(source.classes, several), _kind(names, network.is_multi_label)
  if has != gives:
    raise InputError(f'{flags.data}: images have {has}, and the network gives {gives}')
  count = source.labels.reshape(len(source), -1).shape[1]
  if not names and count != network.outputs:
    raise InputError(
      f'{flags.data}: images have {count} targets, and the network gives '
      f'{network.outputs}'
    )
  is_open = names[-1:] == ('unknown',) and 'unknown' not in source.classes
  lone = sorted(set(source.classes) - set(names))
  if lone and not is_open:
    raise InputError(f'{flags.data}: the network does not know class {lone[0]!r}')
  if several:
    source = source.keep_classes(names)
  dataset = loading.decode(source, network.transform, flags.skip_corrupt, False)[0]
  if names and not several:
    known = names[:-1] if is_open else names
    dataset = dataset.number_classes(known, unknown=is_open)
  return split, dataset


def _kind(classes, is_multi_label):
  if not classes:
    return 'targets of a regression'
  return 'any number of classes' if is_multi_label else 'one class'


if __name__ == '__main__':
  cli.main(evaluate, Flags)
