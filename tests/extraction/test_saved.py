"""What is loaded predicts what was saved, to the last bit."""

import json

import jax
import numpy as np
import pytest

from tljax import models
from tljax.data import Transform
from tljax.errors import InputError
from tljax.extraction import neighbours, saved
from tljax.extraction.head import Head, as_outputs, join, linear
from tljax.models.base import FlattenMLP

CLASSES = ('a', 'b', 'c')
TRANSFORM = Transform(16, 20, 'bicubic')


@pytest.fixture(scope='module')
def cnn():
  """Backbone, variables and images."""
  model = models.create('cnn', 3)
  images = np.random.default_rng(0).random((6, 16, 16, 3), np.float32)
  return model, jax.jit(model.init)(jax.random.key(0), images), images


def mlp(features):
  module = FlattenMLP(3, (4,), rate=0.1)
  return Head(module, module.init(jax.random.key(0), as_outputs(features)))


HEADS = {
  'linear': lambda features: linear(np.ones((features.shape[1], 3)), np.arange(3)),
  'mlp': mlp,
  'knn': lambda features: neighbours.fit(features, np.arange(6) % 3, 3, k=2),
}


def save(folder, cnn, kind, endpoint='features', pooling=None):
  model, variables, images = cnn
  features = np.asarray(model.apply(variables, images)[endpoint])
  features = features.mean((1, 2)) if pooling else features
  joined, together = join(model, variables, HEADS[kind](features), endpoint, pooling)
  saved.save(folder, 'cnn', joined, together, CLASSES, TRANSFORM)
  return joined, together


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize(
  ('endpoint', 'pooling'), [('features', None), ('stage2', 'mean')]
)
def test_it_comes_back(cnn, tmp_path, raw, kind, endpoint, pooling):
  joined, together = save(tmp_path / 'new', cnn, kind, endpoint, pooling)
  back = saved.load(tmp_path / 'new')
  assert back.model == joined
  assert raw(back.variables) == raw(together)
  assert back[2:] == (CLASSES, TRANSFORM, False)
  logits = (m.apply(v, cnn[2])['logits'] for m, v in ((joined, together), back[:2]))
  np.testing.assert_array_equal(*logits)
  assert {path.name for path in (tmp_path / 'new').iterdir()} == {
    'model.json',
    'variables.msgpack',
  }


def gone(folder):
  (folder / 'model.json').unlink()


def cut(folder):
  path = folder / 'variables.msgpack'
  path.write_bytes(path.read_bytes()[:-10])


def foreign(folder):
  path = folder / 'model.json'
  description = json.loads(path.read_text())
  description['head']['kind'] = 'eval'
  path.write_text(json.dumps(description))


@pytest.mark.parametrize('spoil', [gone, cut, foreign])
def test_what_is_no_saved_model_is_bad_input(cnn, tmp_path, spoil):
  save(tmp_path, cnn, 'linear')
  spoil(tmp_path)
  with pytest.raises(InputError, match='holds no whole saved model'):
    saved.load(tmp_path)
