"""Trains a head on the features of a frozen network, which are extracted once.

  python -m experiments.extract --data folder:hymenoptera_data --out runs/frozen

By default that is VGG16 without its top, then Flatten, Dense 512 with ReLU, Dropout
0.5 and softmax, by Adam in 10 epochs of batches of 32. `extraction.saved.load` reads
backbone and head, as one model of images, from the run's folder model/.
"""

import dataclasses
import pathlib

import numpy as np

from experiments import cli, results
from tljax import models, weights
from tljax.data import augment
from tljax.extraction import features, heads, saved, search
from tljax.extraction.head import join


@dataclasses.dataclass(kw_only=True)
class Flags(cli.Few, cli.ModelFlags):
  """Trains a head on the features of a frozen network."""

  data: str
  """digits, folder:PATH, csv:PATH, ...; a wrong name lists all kinds."""
  model: str = 'vgg16'
  weights: str = 'torchvision/imagenet1k_v1'
  """Pretrained weights: a file in a published layout, or a tag of the zoo."""
  head: heads.Name = 'mlp'
  """Of a regression mlp, linear, ridge or knn."""
  learning_rate: float = 1e-3
  """Adam's; that of --head linear falls to 0 along a cosine."""
  endpoint: str | None = None
  """Output of the network; by default 'map' for --head mlp, else 'features'."""
  pooling: features.Pooling | None = None
  """Of an endpoint with height and width."""
  views: int = 1
  """Of each training image: as it is, and randomly cropped and flipped."""
  sweep: bool = False
  """Try a grid of the head's settings; the validation split chooses."""
  cache: pathlib.Path | None = None
  """Folder that keeps features for other runs, by content."""

  def place(self) -> dict:
    """Where features are taken."""
    endpoint = self.endpoint or ('map' if self.head == 'mlp' else 'features')
    return {'endpoint': endpoint, 'pooling': self.pooling}


def extract(flags: Flags) -> None:
  splits = flags.load_data(flags.data, multi_label=True)
  splits = search.hold_out(splits) if flags.sweep else splits
  training = splits['train']
  few = flags.few(dataclasses.replace(training, images=np.arange(len(training))))
  settings = heads.settings(flags.head, flags.sweep, flags.learning_rate)
  size, epochs = flags.batch_size, flags.epochs * flags.views
  find = heads.searcher(flags.head, settings, few[flags.seed], epochs, size)
  model = models.create(flags.model)
  variables = weights.load_backbone(flags.model, flags.weights)
  place = flags.place()
  shape = features.shape(model, variables, training.images, **place)
  heads.check_shape(flags.head, shape)
  run = flags.open_run(fingerprint=training.fingerprint())
  crop = augment.RandomResizedCrop(flags.transform().size, flip=0.5)
  options = {'augment': crop, 'cache': flags.cache}
  parts = features.extract_splits(
    model, variables, splits, views=flags.views, **options, **place
  )
  found = {}
  for seed, examples in few.items():
    rows = features.rows(parts['train'], examples.images, flags.views)
    found[seed] = find(rows, parts['validation'], seed, run)
  best = search.choose(list(found.values()), parts['validation'])
  joined = join(model, variables, found[flags.seed].heads[best], **place)
  about = (training.classes, flags.transform(), training.is_multi_label)
  saved.save(run.folder / 'model', flags.model, *joined, *about)

  name = 'test' if 'test' in parts else 'validation'
  trials = [search.judge(f, best, parts[name]) for f in found.values()]
  text = (
    f'{flags.head} head on {place["endpoint"]} of {flags.model}, weights from '
    f'{flags.weights}; {len(settings)} setting(s) tried, judged on the '
    f'{len(parts[name])} {name} images.'
  )
  facts = {'title': flags.data, 'text': text, 'settings': settings[best]}
  results.conclude(run, {flags.head: trials}, parts[name], **facts).save()


if __name__ == '__main__':
  cli.main(extract, Flags)
