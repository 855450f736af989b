"""Outputs of a frozen network over a whole set of images, computed once."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from tljax import processes, sharding
from tljax.data.augment import Augment, each, to_float
from tljax.data.dataset import Dataset
from tljax.data.images import Images
from tljax.errors import InputError
from tljax.extraction.cache import cached, digest
from tljax.inference import padded_batches
from tljax.method import Variables
from tljax.progress import Bar

Pooling = Literal['mean', 'max', 'flatten']


def below_head(variables: Variables) -> Variables:
  """Returns a network's variables but those of its head: what features depend on."""
  parts = ('backbone', 'bottleneck')
  kept = {
    collection: {part: tree[part] for part in parts if part in tree}
    for collection, tree in variables.items()
  }
  return {collection: tree for collection, tree in kept.items() if tree}


def extract(
  model,
  variables: Variables,
  images: np.ndarray | Images,
  *,
  endpoint: str = 'features',
  pooling: Pooling | None = None,
  augment: Augment | None = None,
  views: int = 1,
  seed: int = 0,
  batch_size: int = 64,
  cache: str | pathlib.Path | None = None,
) -> np.ndarray:
  """Returns the backbone's output at an endpoint, in evaluation mode, as float32.

  Several processes share the images, and each has all features.

  Args:
    model: a `Classifier`; its head is not run, its bottleneck, if any, is.
    variables: its variables; the head's may be missing.
    images: (N, H, W, 3) uint8.
    endpoint: such as 'features' (N, D) or, of most networks, 'map' (N, H', W', C).
    pooling: see `pool`.
    augment: changes the images in all views but the first.
    views: of each image. Row v * N + i of the result is view v of image i; view 0 is
      the image as it is, and each other one is drawn by seed, v and i alone.
    seed: of the views.
    batch_size: images in one forward pass, of each process, at most; see
      `inference.padded_batches`.
    cache: folder that keeps the result, memory-mapped, by the content of all that it
      depends on: the images, the backbone's variables, the computation. Without it
      the result is in memory.

  Raises:
    InputError: the model has no such endpoint, or cannot be pooled there; or the
      cache cannot be used.
  """
  if views < 1:
    raise InputError(f'--views is {views}; choose at least 1')
  variables = below_head(variables)
  placed, mesh = variables, sharding.of_processes()
  if mesh is not None:
    variables = jax.tree.map(processes.fetch, variables)
    placed = sharding.put(variables, sharding.of_state(variables, mesh))
  programs = [_plain(model, endpoint, pooling)]
  if views > 1:
    programs.append(_augmented(model, endpoint, pooling, augment))
  rows = views * len(images)

  def blocks():
    with Bar('features', 0, rows, 'image') as bar:
      for view in range(views):
        run = functools.partial(programs[min(view, 1)], placed)
        batches = padded_batches(images, batch_size, mesh)
        yield from _view(run, batches, len(images), _key(seed, view), bar, view)

  if cache is None:
    return np.concatenate(list(blocks()))
  one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
  index = jax.ShapeDtypeStruct((1,), jnp.int32)
  texts = [_text(program, variables, one, index, _key(seed, 0)) for program in programs]
  key = digest(texts, variables, images, (seed, views) if views > 1 else ())
  return cached(cache, key, rows, blocks)


def shape(
  model,
  variables: Variables,
  images: np.ndarray | Images,
  endpoint: str = 'features',
  pooling: Pooling | None = None,
) -> tuple[int, ...]:
  """Returns the shape of one image's features, without computing them.

  Raises:
    InputError: as `extract`.
  """
  one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
  index = jax.ShapeDtypeStruct((1,), jnp.int32)
  program = _plain(model, endpoint, pooling)
  return jax.eval_shape(program, variables, one, index, _key(0, 0)).shape[1:]


def extract_splits(
  model,
  variables: Variables,
  splits: Mapping[str, Dataset],
  *,
  views: int = 1,
  **options,
) -> dict[str, Dataset]:
  """Returns the splits with features (N, D) in place of images; see `extract`.

  Only the training split has more than one view; its labels are repeated.
  """

  def features(name, split):
    count = views if name == 'train' else 1
    images = extract(model, variables, split.images, views=count, **options)
    labels = np.concatenate([split.labels] * count)
    return dataclasses.replace(split, images=images, labels=labels)

  return {name: features(name, split) for name, split in splits.items()}


def rows(split: Dataset, indices: np.ndarray, views: int) -> Dataset:
  """Returns all views of the examples at `indices`; see `extract`."""
  count = len(split) // views
  if len(indices) == count:  # without a copy of what may be mapped from disk
    return split
  return split.take((count * np.arange(views)[:, None] + indices[None]).ravel())


def pool(x: jax.Array, pooling: Pooling | None) -> jax.Array:
  """Maps an endpoint (N, ..., C) to features (N, D): its mean, in float32, or maximum
  over all between, D = C, or all of it in one row; None leaves it.
  """
  between = tuple(range(1, x.ndim - 1))
  if pooling == 'mean':
    return jnp.mean(x, between, dtype=jnp.float32)
  if pooling == 'max':
    return jnp.max(x, between)
  return x if pooling is None else x.reshape(len(x), -1)


# Compiled once per model; the variables are arguments, not constants in the code.
@functools.lru_cache(maxsize=8)
def _plain(model, endpoint, pooling):
  def run(variables, images, indices, key):
    del indices, key
    return _embed(model, variables, to_float(images), endpoint, pooling)

  return jax.jit(run)


@functools.lru_cache(maxsize=8)
def _augmented(model, endpoint, pooling, augment):
  def change(index, key, image):
    return augment(jax.random.fold_in(key, index), image[None])[0]

  def run(variables, images, indices, key):
    # Image by image, so that a view does not depend on the batch it is in.
    keys = jnp.broadcast_to(key, indices.shape)
    images = each(change, indices, keys, to_float(images))
    return _embed(model, variables, images, endpoint, pooling)

  return jax.jit(run)


def _embed(model, variables, images, endpoint, pooling):
  outputs = model.apply(variables, images, method='embed')
  if endpoint not in outputs:
    raise InputError(
      f'endpoint {endpoint!r} is unknown; choose one of {", ".join(outputs)}'
    )
  return pool(outputs[endpoint], pooling).astype(jnp.float32)


def _key(seed, view):
  return jax.random.fold_in(jax.random.key(seed), view)


def _text(program, *arguments):
  """What the program computes, constants and all, whatever it will run on."""
  return program.trace(*arguments).lower(lowering_platforms=('cpu',)).as_text()


def _view(run, batches, count, key, bar, view) -> Iterator[np.ndarray]:
  """Yields the features of one view, batch by batch."""
  done = 0
  for batch in batches:
    indices = done + np.arange(len(batch), dtype=np.int32)
    result = processes.fetch(run(batch, indices, key))[: count - done]
    done += len(result)
    yield result
    bar.update(view * count + done)
