"""Ranks pretrained networks for a target set before anything is trained.

  python -m experiments.select --data folder:hymenoptera --out runs/select \
    --models squeezenet1_1=squeezenet1_1.safetensors resnet18=torchvision/imagenet1k_v1

By scores of transferability beside costs measured on this device; it says which to take
and how much of it to tune. With --run it does so, and reports estimate and outcome.
"""

import dataclasses
import functools
import math
import pathlib
import sys

import numpy as np

from experiments import cli, finetune, selection, tuning
from tljax import report
from tljax.data.dataset import judging_split
from tljax.errors import InputError
from tljax.extraction.features import extract_splits
from tljax.measures.transferability import OF_FEATURES


@dataclasses.dataclass(kw_only=True)
class Flags(finetune.Flags):
  """Ranks pretrained networks for a target set."""

  models: tuple[str, ...]
  """Candidates, as MODEL=WEIGHTS; these are in place of --model and --weights."""
  score: str = selection.DEFAULT
  """What ranks them; a wrong name lists all that there are."""
  run: bool = False
  """Train what is recommended."""
  all: bool = False
  """Train every candidate as it calls for; Kendall's tau of each score."""
  budget: float = math.inf
  """Seconds that a training may take."""
  cache: pathlib.Path | None = None
  """Folder that keeps features for other runs, by content."""
  augment: cli.Augment = 'none'
  epochs: int = 3
  learning_rate: float = 1e-3
  backbone_rate: float = 0.1
  min_steps: int = 60
  """Steps of a training, however few its examples and --epochs are."""


def select(flags: Flags) -> None:
  if flags.score not in OF_FEATURES:
    raise InputError(
      f'--score {flags.score!r} is unknown; choose one of {", ".join(OF_FEATURES)}'
    )
  parsed = selection.parse(flags.models)
  run = flags.open_run(without=('run', 'all', 'score'))
  candidates = {
    name: dataclasses.replace(flags, model=model, weights=source)
    for name, (model, source) in parsed.items()
  }
  found, sets = {}, {}
  for name, one in candidates.items():
    splits = one.load_data(flags.data)
    splits['train'] = one.few(splits['train'])[flags.seed]
    found[name], features = selection.measure(one, splits)
    sets[name] = splits, features
    print(
      f'{name}: {flags.score} {found[name].scores[flags.score]:.3f}', file=sys.stderr
    )
  best, text = selection.recommend(found, flags.score)
  page = report.Page(run.folder / 'report.html', flags.data, text)
  result = {'recommendation': {'model': best, 'text': text}}
  result['candidates'] = {name: one._asdict() for name, one in found.items()}
  chosen = list(found) if flags.all else [best] if flags.run else []
  outcome = {name: train(candidates[name], found[name], *sets[name]) for name in chosen}
  selection.conclude(page, found, outcome, flags.score, result)
  run.write_result(result)
  page.save()
  print(text, f'wrote {run.folder / "report.html"}', sep='\n')


def train(flags: Flags, found: selection.Candidate, splits, features) -> float:
  """The test accuracy of a candidate that is tuned as it calls for, over seeds."""
  used = found.advice.name.replace('full', 'plain')

  @functools.cache  # one extraction serves all seeds
  def both():
    test = {'test': judging_split(splits)}
    network = flags.build_model(2), flags.load_backbone()
    return features | extract_splits(*network, test, cache=flags.cache)

  trials = [tuning.judge(flags, used, s, splits, both) for s in flags.seed_range()]
  return float(np.mean([facts['accuracy'] for facts in trials]))


if __name__ == '__main__':
  cli.main(select, Flags)
