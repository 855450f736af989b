"""Measures the gap between two domains, and says which adaptation it calls for.

  python -m experiments.gap --source folder:photo --target folder:cartoon \
    --weights squeezenet1_1.safetensors --out runs/gap

On features of a frozen network. Target labels are not used, but with --target-labels.
"""

import dataclasses
import pathlib

import numpy as np
from threadpoolctl import threadpool_limits

from experiments import cli, diagnosis
from tljax import report
from tljax.adaptation import advice
from tljax.data.dataset import match_classes
from tljax.extraction.features import extract_splits
from tljax.measures import gap as measures
from tljax.measures import two_sample


@dataclasses.dataclass(kw_only=True)
class Flags(cli.ModelFlags):
  """Measures the gap between two domains of the same classes."""

  source: str
  """Labelled set: folder:PATH, ...; a wrong name lists all kinds."""
  target: str
  """Set of which the training images are looked at."""
  weights: str
  """Pretrained weights: a file, or a tag of the zoo."""
  target_labels: bool = False
  """Also show each class' true share and gap, which nobody knows beforehand."""
  examples: int = 500
  """Images of each domain that are compared, at most."""
  draws: int = 50
  """Of the bootstrap; see measures.gap."""
  cache: pathlib.Path | None = None
  """Folder that keeps features for other runs, by content."""


def gap(flags: Flags) -> None:
  source, target = match_classes(*map(flags.load_data, (flags.source, flags.target)))
  sets = {'source': source, 'target': {'train': target['train']}}
  classes = source['train'].classes
  network = flags.build_model(len(classes)), flags.load_backbone()
  run = flags.open_run()
  features = {
    k: extract_splits(*network, s, cache=flags.cache) for k, s in sets.items()
  }
  logits, shares = diagnosis.classify(features['source'], features['target']['train'])

  rng = np.random.default_rng(flags.seed)
  drawn = {
    k: rng.permutation(len(s['train']))[: flags.examples] for k, s in sets.items()
  }
  x, y = measures.on_one_scale(
    *(features[k]['train'].images[drawn[k]] for k in features)
  )
  labels = source['train'].labels[drawn['source']]
  said, true = (a[drawn['target']] for a in (logits.argmax(-1), target['train'].labels))
  options = {'draws': flags.draws, 'seed': flags.seed}
  # With a busy neighbour, threads wait for each other longer than they work.
  with threadpool_limits(1):
    by_class = {'pseudo-labels': measures.by_class(x, labels, y, said, **options)}
    if flags.target_labels:
      by_class['true labels'] = measures.by_class(x, labels, y, true, **options)
      shares['target, true'] = np.bincount(true, minlength=len(classes)) / len(true)
    distances, nothing = measures.all_intervals(x, y, **options)
    parts = measures.decompose(x, labels, y, shares['target'])
    p_value = two_sample.mmd_p_value(x, y, permutations=200)
  certainty = advice.certainty(logits)
  facts = advice.Facts(p_value, distances['A-distance'].value, parts, certainty, shares)
  text = advice.advise(facts, classes)
  title = f'{flags.source} to {flags.target}'
  page = report.Page(run.folder / 'report.html', title, text)
  result = diagnosis.conclude(page, facts, (distances, nothing), by_class, classes)
  run.write_result({'advice': text, **result})
  shown = {k: sets[k]['train'].take(drawn[k]) for k in sets}
  diagnosis.pictures(page, shown, {'source': x, 'target': y}, (labels, said))
  page.save()
  print(text, f'wrote {run.folder / "report.html"}', sep='\n')


if __name__ == '__main__':
  cli.main(gap, Flags)
