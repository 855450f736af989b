"""Times the input pipeline, files to batches, beside PyTorch's DataLoader.

python -m benchmarks.input --data ../hymenoptera_data/train --out input.json
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from experiments import cli
from tljax import data, report
from tljax.data import augment, batches
from tljax.errors import InputError
from tljax.models.base import IMAGENET_MEAN, IMAGENET_STD

try:
  import torch

  from benchmarks import torch_twins
except ImportError:
  torch = None

TRANSFORM = data.Transform(224, 256)


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Times the input pipeline, beside PyTorch's where it is installed."""

  data: pathlib.Path
  """Folder of images per class."""
  out: pathlib.Path | None = None
  """JSON file for the figures; it must not exist."""
  rounds: int = 5
  """Turns of each pipeline."""
  epochs: int = 2
  """Passes over the images in a turn."""
  batch_size: int = 32
  workers: int = 2
  """Processes of PyTorch's DataLoader; tljax has as many threads as cores."""


def normalise(key: jax.Array, images: jax.Array) -> jax.Array:
  """What a model does with its input; PyTorch's pipelines do it beforehand."""
  del key
  mean, std = (jnp.array([[[values]]]) for values in (IMAGENET_MEAN, IMAGENET_STD))
  return (images - mean) / std


CROP = augment.RandomResizedCrop(TRANSFORM.size, flip=0.5)
# By case: the images' transform, the random crop, whether they stay in memory.
CASES = {
  'evaluation, decoded as used': (TRANSFORM, None, False),
  'training, decoded as used': (TRANSFORM.uncropped, CROP, False),
  'training, in memory': (TRANSFORM.uncropped, CROP, True),
}


def tljax_turn(case: str, flags: Flags, count: int):
  """Returns a function that reads a turn's batches onto the device."""
  transform, crop, in_memory = CASES[case]
  memory = 1 << 40 if in_memory else 0
  source = data.folder.read(str(flags.data))['all']
  dataset, _ = data.loading.decode(source, transform, False, bool(memory))
  stream = batches.stream(dataset, flags.batch_size, 0, normalise, crop=crop)
  turns = itertools.count()

  def turn():
    first = next(turns) * count
    under_way = collections.deque()
    with contextlib.closing(batches.read_ahead(stream, first, first + count)) as ahead:
      for step, batch in enumerate(ahead, first):
        under_way.append(stream.finish(batch, np.uint32(step)))
        if len(under_way) > 2:  # as the loop, which does not wait for each either
          jax.block_until_ready(under_way.popleft())
    jax.block_until_ready(under_way)

  return turn


def torch_turn(case: str, flags: Flags, count: int):
  """Returns a function that reads a turn's batches with PyTorch's DataLoader."""
  vision = torch_twins.torchvision()
  transforms = vision.transforms
  if case.startswith('training'):
    change = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
  else:
    change = [transforms.Resize(256), transforms.CenterCrop(224)]
  change += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
  loader = torch.utils.data.DataLoader(
    vision.datasets.ImageFolder(flags.data, transforms.Compose(change)),
    flags.batch_size,
    shuffle=True,
    drop_last=True,
    num_workers=flags.workers,
    persistent_workers=True,
    multiprocessing_context='fork',  # as by default on Linux; they touch no JAX
  )

  def turn():
    passes = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in itertools.islice(passes, count):
      pass

  return turn


def measure(case: str, flags: Flags) -> dict:
  """Returns the figures of a case: images per second, and the ratio."""
  images = len(data.folder.read(str(flags.data))['all'])
  count = flags.epochs * (images // flags.batch_size)
  contenders = {'tljax': tljax_turn(case, flags, count)}
  if torch is not None:
    contenders['torch'] = torch_turn(case, flags, count)
  harness.alternate(contenders, 1, 1)  # warm-up
  seconds = harness.alternate(contenders, flags.rounds, 1)
  rates = {k: [count * flags.batch_size / s for s in v] for k, v in seconds.items()}
  figures = {'case': case, 'images': images, 'torch': None, 'ratio': None}
  figures |= {name: harness.quartiles(values) for name, values in rates.items()}
  if 'torch' in rates:
    pairs = zip(rates['tljax'], rates['torch'], strict=True)
    figures['ratio'] = harness.quartiles([ours / theirs for ours, theirs in pairs])
  return figures


def input(flags: Flags) -> None:
  if flags.out and flags.out.exists():
    raise InputError(f'{flags.out} exists; choose another --out')
  if min(flags.rounds, flags.epochs, flags.batch_size, flags.workers) < 1:
    raise InputError('--rounds, --epochs, --batch-size, --workers must be at least 1')
  figures = [measure(case, flags) for case in CASES]
  rows = [
    {
      'images per second': f['case'],
      'tljax': harness.spread(f['tljax'], 1, 0),
      'torch': harness.spread(f['torch'], 1, 0),
      'ratio': harness.spread(f['ratio'], 1, 2),
    }
    for f in figures
  ]
  report.print_table(rows, f'{flags.data}: median (quartiles)')
  if flags.out:
    versions = {'torch': torch and torch.__version__, 'workers': flags.workers}
    environment = harness.environment(**versions, batch_size=flags.batch_size)
    content = json.dumps({**environment, 'cases': figures}, indent=2)
    flags.out.write_text(content + '\n')


if __name__ == '__main__':
  cli.main(input, Flags)
