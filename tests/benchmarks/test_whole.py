"""What surrounds a step, in miniature."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import founding, input, steps, whole
from tljax import models
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.finetuning import plain

ALONE = steps.Settings(batch_size=2, pixels=32, peers=())


@pytest.mark.parametrize('make', [whole.loop, whole.heads, whole.seeds])
def test_both_contenders_run_again_and_again(make, monkeypatch):
  monkeypatch.setattr(whole, '_LENGTH', 2)
  monkeypatch.setattr(whole, '_WIDTH', 4)
  contenders = make(ALONE)
  assert len(contenders) == 2
  for contender in contenders.values():
    for _ in range(2):
      contender.run()


def test_a_run_is_compiled_once(caplog):
  batch = steps.draw(2, 16, 10)
  method = plain.method(models.create('cnn', 10), steps.optimizer())
  contender = whole.fitted(method, batch, length=1)
  contender.run()
  caplog.clear()
  with jax.log_compiles():
    contender.run()
  assert not [m for m in caplog.messages if 'Compiling jit(step)' in m]


def test_a_process_that_fails_is_told():
  whole.process('pass').run()
  with pytest.raises(InputError, match='a fresh process failed: no such thing'):
    whole.process('raise SystemExit("no such thing")').run()


@pytest.mark.parametrize('case', ['evaluation', 'training-in-memory'])
def test_photographs_are_read(case, monkeypatch, tmp_path):
  draw = input.draw_photographs
  monkeypatch.setattr(input, 'draw_photographs', lambda folder: draw(folder, 4))
  settings = dataclasses.replace(ALONE, scratch=tmp_path)
  (ours,) = input.reading(case, settings).values()
  ours.run()
  assert len([*tmp_path.glob('[ab]/*.jpg')]) == 4


def tiny():
  images, labels = np.zeros((16, 32, 32, 3), np.uint8), np.int32([0, 1, 2, 0] * 4)
  return Dataset(images, labels, ('a', 'b', 'c'))


def test_the_founding_recipe_is_of_a_folders_photographs(monkeypatch, tmp_path):
  monkeypatch.setattr(founding, 'recipe', lambda settings, dataset, epochs: dataset)
  settings = steps.Settings(data=input.draw_photographs(tmp_path, 3))
  dataset = founding.many(settings)
  assert dataset.images.shape == (3, 224, 224, 3)
  assert (dataset.classes, sorted(dataset.labels)) == (('a', 'b'), [0, 0, 1])
  assert len(founding.few(steps.Settings(batch_size=5, pixels=8)).images) == 10


@pytest.mark.slow
@pytest.mark.keras
def test_keras_trains_the_founding_head():
  pytest.importorskip('keras')
  ours = founding.ours(tiny(), 8, 1)()
  # Keras adds and multiplies as it pleases.
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    theirs = founding.theirs(tiny(), 8, 1)()
  shapes = sorted(leaf.shape for leaf in jax.tree.leaves(ours))
  assert shapes == sorted(leaf.shape for leaf in theirs)
