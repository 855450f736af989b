"""Judges a trained network on labelled images, and shows what it gets wrong and why.

python -m experiments.evaluate --run runs/tuned --data folder:pets --out runs/judged
"""

import dataclasses
import pathlib
import sys

import jax
import numpy as np

from experiments import cli, trained
from tljax import report
from tljax.data import loading
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.measures import scores
from tljax.run import Run


@dataclasses.dataclass(kw_only=True)
class Flags(trained.Flags):
  """Judges a trained network on labelled images."""

  data: str
  """Labelled images of the same classes: folder:PATH, csv:PATH, ..."""
  out: pathlib.Path
  """Folder for result.json and report.html."""
  split: str | None = None
  """Split of the set; by default its test split, else its validation split."""


def evaluate(flags: Flags) -> None:
  network = trained.load(flags.run, flags.strategy, flags.best)
  if not network.classes or network.is_multi_label:
    raise InputError(f'{flags.run} gives not one class an image; see its result.json')
  split, dataset = read(flags, network)
  config = {'run': str(flags.run), 'network': network.name, 'data': flags.data}
  config |= {'split': split, **({'best': True} if flags.best else {})}
  run = Run.open(flags.out, config, resume=True)
  logits = network.logits(dataset.images)
  figures = scores.classification(logits, dataset.labels)
  by_class = scores.by_class(logits, dataset.labels, dataset.classes)
  run.write_result({**figures, 'classes': by_class})

  title = f'{network.name} on {flags.data}, {split}'
  page = report.Page(run.folder / 'report.html', title, f'{len(dataset)} images.')
  rows = [
    {'measure': k.replace('_', ' '), 'value': f'{v:.4f}'} for k, v in figures.items()
  ]
  report.print_table(rows, title)
  page.table('Measures', rows)
  rows = [{k: f'{v:.4g}' for k, v in row.items()} for row in by_class.values()]
  rows = [{'class': k, **row} for k, row in zip(by_class, rows, strict=True)]
  page.table('Classes', rows)
  page.confusion(network.name, dataset, logits.argmax(-1))
  page.figure('Calibration', report.calibration(logits, dataset.labels))
  show_mistakes(page, network, dataset, logits)
  page.save()
  print(f'wrote {run.folder / "report.html"}', file=sys.stderr)


def read(flags: Flags, network: trained.Trained) -> tuple[str, Dataset]:
  """Returns the split's name and its images, labelled in the network's order."""
  splits = loading.read_splits(flags.data)
  split = flags.split or ('test' if 'test' in splits else 'validation')
  if split not in splits:
    raise InputError(f'{flags.data} has no split {split!r}, but {", ".join(splits)}')
  lone = sorted(set(splits[split].classes) - set(network.classes))
  if lone:
    raise InputError(f'{flags.data}: the network does not know class {lone[0]!r}')
  source = splits[split].keep_classes(network.classes)
  return split, loading.decode(source, network.transform, flags.skip_corrupt, False)[0]


def show_mistakes(
  page: report.Page, network: trained.Trained, dataset: Dataset, logits: np.ndarray
) -> None:
  """Adds the most confident mistakes, and where the evidence for them was seen."""
  predicted, confidence = logits.argmax(-1), np.asarray(jax.nn.softmax(logits)).max(-1)
  wrong = np.flatnonzero(predicted != dataset.labels)
  wrong = wrong[np.argsort(-confidence[wrong], kind='stable')][:10]
  if len(wrong):
    pairs = zip(dataset.labels[wrong], predicted[wrong], strict=True)
    titles = [f'{dataset.classes[a]},\nnot {dataset.classes[b]}' for a, b in pairs]
    images = dataset.images[wrong]
    maps = network.evidence(images, predicted[wrong])
    text = 'The most confident, and by Grad-CAM where the network saw what it said.'
    page.figure('Mistakes', report.gallery(images, titles, maps), text)


if __name__ == '__main__':
  cli.main(evaluate, Flags)
