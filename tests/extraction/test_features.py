"""Every image's features in order, whichever batch, view, process or cache."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax import data
from tljax.data import augment
from tljax.data.images import Images
from tljax.errors import InputError
from tljax.extraction import features
from tljax.extraction.features import extract, extract_splits, pool


@pytest.fixture(scope='module')
def outputs(model, variables, domains):
  images = domains['digits']['validation'].images.astype(np.float32) / 255
  return model.apply(variables, images)


@pytest.mark.parametrize('endpoint', ['features', 'stage1'])
@pytest.mark.parametrize('batch_size', [64, 7])
def test_extract_is_the_endpoint_of_every_image_in_order(
  model, variables, domains, outputs, endpoint, batch_size
):
  images = domains['digits']['validation'].images
  assert len(images) % batch_size
  got = extract(model, variables, images, endpoint=endpoint, batch_size=batch_size)
  assert isinstance(got, np.ndarray) and len(got) == len(images)
  np.testing.assert_allclose(got, outputs[endpoint], rtol=1e-4, atol=1e-6)


def test_extract_needs_no_head(model, variables, domains, outputs):
  headless = {
    'params': {'backbone': variables['params']['backbone']},
    'batch_stats': variables['batch_stats'],
  }
  got = extract(model, headless, domains['digits']['validation'].images)
  np.testing.assert_allclose(got, outputs['features'], rtol=1e-4, atol=1e-6)


def test_extract_splits_keeps_labels_and_classes(model, variables, domains):
  splits = domains['digits']
  got = extract_splits(model, variables, splits)
  assert list(got) == list(splits)
  for name, split in splits.items():
    assert got[name].images.shape == (len(split), 8)
    np.testing.assert_array_equal(got[name].labels, split.labels)
    assert got[name].classes == split.classes


@pytest.mark.parametrize(
  ('pooling', 'wanted'),
  [
    ('mean', lambda x: x.mean((1, 2))),
    ('max', lambda x: x.max((1, 2))),
    ('flatten', lambda x: x.reshape(len(x), -1)),
    (None, lambda x: x),
  ],
)
def test_pooling_of_a_map(model, variables, domains, outputs, pooling, wanted):
  images = domains['digits']['validation'].images
  got = extract(model, variables, images, endpoint='stage1', pooling=pooling)
  wanted = wanted(np.asarray(outputs['stage1'], np.float64))
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_a_mean_of_half_precision_has_all_of_its_digits():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 7, 3)), jnp.bfloat16)
  wanted = np.asarray(x, np.float64).mean((1, 2))
  np.testing.assert_allclose(pool(x, 'mean'), wanted, rtol=1e-5)


def test_an_unknown_endpoint_is_bad_input(model, variables, domains):
  with pytest.raises(InputError, match="'top' is unknown; choose .*stage2, features"):
    extract(model, variables, domains['digits']['test'].images, endpoint='top')


def test_views_are_the_augmentation_of_each_image(model, variables, domains):
  images = domains['digits']['validation'].images[:9]
  change = augment.RandomResizedCrop(16, flip=0.5)
  options = {'augment': change, 'views': 3, 'seed': 5}
  got = extract(model, variables, images, batch_size=4, **options)
  assert got.shape == (27, 8)
  np.testing.assert_array_equal(
    got[:9], extract(model, variables, images, batch_size=4)
  )
  np.testing.assert_allclose(  # whatever the batches
    extract(model, variables, images, batch_size=5, **options), got, rtol=1e-4
  )
  for view in (1, 2):
    for i in (0, 7):
      key = jax.random.fold_in(jax.random.key(5), view)
      image = np.float32(images[i : i + 1] / 255)
      changed = change(jax.random.fold_in(key, i), image)
      wanted = model.apply(variables, changed)['features'][0]
      np.testing.assert_allclose(got[9 * view + i], wanted, rtol=1e-4, atol=1e-6)
  assert not np.allclose(got[9:18], got[18:])


def test_only_training_images_have_views(model, variables, domains):
  splits = domains['digits']
  got = extract_splits(model, variables, splits, augment=augment.flip, views=2)
  labels = splits['train'].labels
  np.testing.assert_array_equal(got['train'].labels, [*labels, *labels])
  assert len(got['train'].images) == 2 * len(labels)
  assert len(got['test'].images) == len(splits['test'])


@pytest.fixture
def runs(monkeypatch):
  """Counts the passes over images."""
  counted, view = [], features._view

  def spy(*args):
    counted.append(args)
    return view(*args)

  monkeypatch.setattr(features, '_view', spy)
  return counted


def test_the_cache_answers_by_content(model, variables, domains, tmp_path, runs):
  images = domains['digits']['validation'].images[:5]
  first = extract(model, variables, images, cache=tmp_path)
  np.testing.assert_array_equal(first, extract(model, variables, images))
  runs.clear()
  # Neither other objects, nor another head, nor other batches are another content.
  other = {**variables, 'params': {'backbone': variables['params']['backbone']}}
  other = jax.tree.map(np.array, other)
  twin = model.clone(head=None)
  again = extract(twin, other, images.copy(), batch_size=2, cache=tmp_path)
  np.testing.assert_array_equal(again, first)
  assert isinstance(again, np.memmap) and not runs


def moved(variables, collection):
  """The variables with one number of the backbone a little larger."""
  leaves, tree = jax.tree.flatten(variables[collection]['backbone'])
  leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].multiply(1.0001)
  return {**variables, collection: {'backbone': jax.tree.unflatten(tree, leaves)}}


def test_the_cache_tells_contents_apart(model, variables, domains, tmp_path, runs):
  images = domains['digits']['validation'].images[:5]
  pixel = images.copy()
  pixel[0, 0, 0, 0] ^= 1
  grey = model.clone(spec=dataclasses.replace(model.spec, mean=(0.4,) * 3))
  views = {'views': 2, 'augment': augment.flip}
  calls = [
    (model, variables, images, {}),
    (model, variables, pixel, {}),
    (model, variables, images[::-1], {}),
    (grey, variables, images, {}),
    (model, moved(variables, 'params'), images, {}),
    (model, moved(variables, 'batch_stats'), images, {}),
    (model, variables, images, {'endpoint': 'stage1'}),
    (model, variables, images, {'endpoint': 'stage1', 'pooling': 'mean'}),
    (model, variables, images, views),
    (model, variables, images, {**views, 'seed': 1}),
    (model, variables, images, {**views, 'augment': augment.invert_contrast}),
  ]
  for *arguments, options in calls:
    extract(*arguments, **options, cache=tmp_path)
  assert len(list(tmp_path.iterdir())) == len(calls)
  runs.clear()
  for *arguments, options in calls:
    extract(*arguments, **options, cache=tmp_path)
  extract(model, variables, images, endpoint='stage2', pooling='mean', cache=tmp_path)
  assert not runs  # the last is what the model's 'features' are


def test_images_decoded_as_used(model, variables, domains, tmp_path):
  transform = data.Transform(16)
  source = data.loading.split(data.loading.read('digits'))['validation']
  images = Images(source, transform)
  got = extract(model, variables, images, cache=tmp_path, batch_size=50)
  wanted = extract(model, variables, domains['digits']['validation'].images)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


TEXT = """
import jax, numpy as np
from tljax import models
from tljax.extraction.cache import digest
from tljax.extraction.features import _augmented, _key, _text
from tljax.data.augment import flip
model = models.create('vit_tiny_patch16_224')
image = np.zeros((1, 224, 224, 3), np.uint8)
variables = jax.eval_shape(lambda: model.init(_key(0, 0), np.float32(image)))
program = _augmented(model, 'features', None, flip)
print(digest(_text(program, variables, image, np.zeros(1, np.int32), _key(0, 0))))
"""


@pytest.mark.slow
def test_the_computation_is_told_alike_by_every_process():
  root = pathlib.Path(__file__).parents[2]
  alone, other, two, eight = (
    subprocess.run(
      [sys.executable, '-c', TEXT],
      env={
        **os.environ,
        'PYTHONHASHSEED': seed,
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
      },
      cwd=root,
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    # One CPU alone has another program, and so a text of its own.
    for seed, devices in (('1', 1), ('2', 1), ('1', 2), ('2', 8))
  )
  assert alone == other and two == eight
