from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import sharding
from tljax.checkpoint import Checkpoints
from tljax.errors import InputError
from tljax.finetuning import plain


@pytest.fixture
def state(model):
  method = plain.method(model, optax.adam(1e-3))
  return method.init(
    jax.random.key(3), None, {'image': jnp.zeros((1, 16, 16, 3))}
  ).replace(step=jnp.int32(8), memory={'queue': jnp.arange(3, dtype=jnp.uint32)})


@pytest.mark.parametrize('devices', [1, 8])
def test_restores_every_bit_and_the_sharding(tmp_path, state, raw, devices):
  whole = sharding.replicated(sharding.data_mesh(jax.devices()[:devices]))
  state = jax.device_put(state, whole)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(8, state)
  with Checkpoints(tmp_path) as checkpoints:
    like = jax.device_put(jax.tree.map(jnp.zeros_like, state), whole)
    restored = checkpoints.restore(like)
  assert raw(restored) == raw(state)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert all(leaf.sharding == whole for leaf in jax.tree.leaves(restored))


def test_what_was_saved_survives_the_donation_of_the_state(tmp_path):
  state = {'w': jnp.arange(1000.0)}
  change = jax.jit(lambda s: {'w': s['w'] * 0 - 1}, donate_argnums=0)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    like = change(state)
  with Checkpoints(tmp_path) as checkpoints:
    np.testing.assert_array_equal(checkpoints.restore(like)['w'], np.arange(1000.0))


def test_a_folder_of_a_bucket(monkeypatch):
  """Against a server of one on loopback, where it and gcsfs are installed."""
  pytest.importorskip('gcsfs')
  server = pytest.importorskip('gcp_storage_emulator.server')
  server = server.create_server('localhost', 0, in_memory=True, default_bucket='bucket')
  server.start()
  address = f'http://localhost:{server._api._httpd.server_port}'
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', address)  # of etils
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', address)
  try:
    with Checkpoints('gs://bucket/run') as checkpoints:
      for step, figure in ((1, 0.5), (2, 0.1), (3, 0.2), (4, 0.3)):
        checkpoints.save(step, {'w': step + jnp.arange(5000.0)}, figure)
    with Checkpoints('gs://bucket/run') as checkpoints:
      assert (checkpoints.best_step(), checkpoints.latest_step()) == (1, 4)
      restored = checkpoints.restore({'w': jnp.zeros(5000)})
    np.testing.assert_array_equal(restored['w'], 4 + np.arange(5000.0))
  finally:
    server.stop()


def test_a_path_of_a_bucket_stays_one(monkeypatch):
  seen = []
  monkeypatch.setattr('tljax.checkpoint._manager', lambda path, _: seen.append(path))
  Checkpoints('gs://bucket/run')
  Checkpoints('run')
  assert [path.as_posix() for path in seen] == ['gs://bucket/run', f'{Path.cwd()}/run']


def test_an_empty_folder_has_no_step(tmp_path):
  with Checkpoints(tmp_path / 'new' / 'folder') as checkpoints:
    assert checkpoints.latest_step() is None


def test_keeps_the_last_few_and_the_first_of_a_step(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step, value in [(1, 1.0), (2, 2.0), (3, 3.0), (3, 4.0)]:
      checkpoints.save(step, {'w': jnp.full(2, value)})
  assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ['2', '3']
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 3
    np.testing.assert_array_equal(checkpoints.restore({'w': jnp.zeros(2)})['w'], 3.0)


def test_the_best_is_kept_beside_the_last(tmp_path):
  figures = {1: 0.5, 2: 0.9, 3: 0.9, 4: None, 5: 0.1, 6: 0.8}
  for part in (range(1, 4), range(4, 7)):  # it is known again after a restart
    with Checkpoints(tmp_path) as checkpoints:
      assert checkpoints.best_step() == (None if 1 in part else 3)
      for step in part:
        checkpoints.save(step, {'w': jnp.full(2, float(step))}, figures[step])
  with Checkpoints(tmp_path) as checkpoints:
    assert (checkpoints.best_step(), checkpoints.latest_step()) == (3, 6)
    like = {'w': jnp.zeros(2)}
    np.testing.assert_array_equal(checkpoints.restore(like)['w'], 6.0)
    np.testing.assert_array_equal(checkpoints.restore_part(like, 3)['w'], 3.0)
  assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ['3', '5', '6']


@pytest.mark.parametrize(
  ('like', 'what'),
  [
    ({'params': {'w': (2,), 'b': (2,)}}, 'it has no params/b'),
    ({'memory': {'student': {'w': (2,)}}}, 'it has no memory/student/w'),
    ({'params': {'w': (3,)}}, r'shape: \(3,\)'),
  ],
)
def test_parts_that_a_checkpoint_has_not(tmp_path, like, what):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'params': {'w': jnp.ones(2)}, 'memory': {'w': jnp.ones(2)}})
  like = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    like,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(InputError, match=f'is of another network.*{what}'),
  ):
    checkpoints.restore_part(like)


def test_without_figures_none_is_the_best(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, {'w': jnp.zeros(2)})
    assert checkpoints.best_step() is None


def test_a_torn_checkpoint_is_passed_over(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'w': jnp.ones(2)})
  torn = tmp_path / '2.orbax-checkpoint-tmp' / 'default'
  torn.mkdir(parents=True)
  (torn / 'half').write_text('written')
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 1
    np.testing.assert_array_equal(checkpoints.restore({'w': jnp.zeros(2)})['w'], 1.0)


def test_an_error_without_words_is_one(tmp_path, monkeypatch):
  """Such as the memory's."""
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'w': jnp.ones(2)})
    checkpoints.wait()
    monkeypatch.setattr(checkpoints, '_read', mock.Mock(side_effect=MemoryError))
    with pytest.raises(InputError, match='step 1: MemoryError'):
      checkpoints.restore({'w': jnp.zeros(2)})
