"""The input pipeline, files to normalised batches, beside PyTorch's DataLoader."""

import collections
import contextlib
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import harness, steps
from benchmarks.harness import Contender, Contenders
from benchmarks.steps import Settings
from tljax import data
from tljax.data import augment, batches
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.models.base import IMAGENET_MEAN, IMAGENET_STD

_BATCH = 32
TRANSFORM = data.Transform(224, 256)
CROP = augment.RandomResizedCrop(TRANSFORM.size, flip=0.5)
# By case: the images' transform, the random crop, whether they stay in memory.
CASES = {
  'evaluation': (TRANSFORM, None, False),
  'training': (TRANSFORM.uncropped, CROP, False),
  'training-in-memory': (TRANSFORM.uncropped, CROP, True),
}


def reading(case: str, settings: Settings) -> Contenders:
  """A pass over photographs in batches of 32; PyTorch has a process for each core."""
  folder = settings.data or draw_photographs(settings.scratch)
  size = settings.batch_size or _BATCH
  found = {'tljax': Contender(_ours(case, folder, size))}
  if 'torch' in settings.peers:
    found['torch'] = steps.attempt(lambda: Contender(_theirs(case, folder, size)))
  return found


def draw_photographs(folder: pathlib.Path, count: int = 128) -> pathlib.Path:
  """Writes JPEG files of 500x375 pixels, half of each of two classes.

  Smooth noise and some that is fine: about 60 KB each, as a photograph's.
  """
  rng = np.random.default_rng(0)
  for i in range(count):
    (folder / 'ab'[i % 2]).mkdir(exist_ok=True)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    fine = rng.normal(0, 8, (375, 500, 1))
    pixels = np.asarray(coarse.resize((500, 375), Image.BICUBIC)) + fine
    image = Image.fromarray(np.uint8(pixels.clip(0, 255)))
    image.save(folder / 'ab'[i % 2] / f'{i}.jpg', quality=90)
  return folder


def photographs(
  folder: pathlib.Path, transform: data.Transform, in_memory: bool
) -> Dataset:
  """Returns what a folder has, a folder a class; in memory is what is decoded.

  Raises:
    InputError: it is of splits.
  """
  splits = data.folder.read(str(folder))
  if 'all' not in splits:
    raise InputError(f'--data {folder} has splits; give the folder of one of them')
  return data.loading.decode(splits['all'], transform, False, in_memory)[0]


def normalise(key: jax.Array, images: jax.Array) -> jax.Array:
  """What a model does with its input; PyTorch's pipelines do it beforehand."""
  del key
  mean, std = (jnp.array([[[values]]]) for values in (IMAGENET_MEAN, IMAGENET_STD))
  return (images - mean) / std


def _ours(case, folder, size):
  """Returns a function that reads a pass's batches onto the device."""
  transform, crop, in_memory = CASES[case]
  dataset = photographs(folder, transform, in_memory)
  stream = batches.stream(dataset, size, 0, normalise, crop=crop)
  count, turns = len(dataset) // size, itertools.count()

  def run():
    first = next(turns) * count
    under_way = collections.deque()
    with contextlib.closing(batches.read_ahead(stream, first, first + count)) as ahead:
      for step, batch in enumerate(ahead, first):
        under_way.append(stream.finish(batch, np.uint32(step)))
        if len(under_way) > 2:  # as the loop, which does not wait for each either
          jax.block_until_ready(under_way.popleft())
    jax.block_until_ready(under_way)

  return run


def _theirs(case, folder, size):
  """Returns a function that reads a pass with PyTorch's DataLoader."""
  vision = steps.torch_twins.hub('torchvision')
  transforms = vision.transforms
  if case.startswith('training'):
    change = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
  else:
    change = [transforms.Resize(256), transforms.CenterCrop(224)]
  change += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
  loader = steps.torch.utils.data.DataLoader(
    vision.datasets.ImageFolder(folder, transforms.Compose(change)),
    size,
    shuffle=True,
    drop_last=True,
    num_workers=harness.cores(),
    persistent_workers=True,
    multiprocessing_context='fork',  # as by default on Linux; they touch no JAX
  )
  return lambda: collections.deque(loader, maxlen=0)
