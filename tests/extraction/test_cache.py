"""Content decides what is found; crashes and neighbours leave no torn array."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from tljax.data import Transform, loading
from tljax.data.images import Images
from tljax.errors import InputError
from tljax.extraction.cache import cached, digest

ROOT = pathlib.Path(__file__).parents[2]
ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


def blocks():
  yield from (ROWS[:4], ROWS[4:8], ROWS[8:])


def untouched():
  raise AssertionError('computed again')


def test_an_array_is_computed_once_and_mapped(tmp_path):
  first = cached(tmp_path / 'new', 'key', 10, blocks)
  again = cached(tmp_path / 'new', 'key', 10, untouched)
  for array in (first, again):
    assert isinstance(array, np.memmap) and not array.flags.writeable
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, ROWS)
  assert [path.name for path in (tmp_path / 'new').iterdir()] == ['key.npy']
  np.testing.assert_array_equal(np.load(tmp_path / 'new' / 'key.npy'), ROWS)


def test_one_block_is_in_memory_at_a_time(tmp_path):
  def sizes():
    for i in range(0, 10, 2):
      (partial,) = tmp_path.glob('.key.*')
      yield ROWS[i : i + 2].repeat(1 << 14, 1)
      assert partial.stat().st_size >= (i + 2) * (3 << 14) * 4

  assert cached(tmp_path, 'key', 10, sizes).shape == (10, 3 << 14)


@pytest.mark.parametrize('length', [0, 5, 130, -1], ids=str)
def test_a_file_that_was_cut_short_is_computed_anew(tmp_path, length):
  cached(tmp_path, 'key', 10, blocks)
  path = tmp_path / 'key.npy'
  path.write_bytes(path.read_bytes()[:length])
  np.testing.assert_array_equal(cached(tmp_path, 'key', 10, blocks), ROWS)


def test_what_fails_leaves_nothing(tmp_path):
  def fails():
    yield ROWS[:4]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    cached(tmp_path, 'key', 10, fails)
  with pytest.raises(ValueError, match='4 rows were computed, 10 wanted'):
    cached(tmp_path, 'key', 10, lambda: [ROWS[:4]])
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_used_is_bad_input(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='file.*choose another --cache'):
    cached(tmp_path / 'file', 'key', 10, blocks)


KILLED = """
import os, signal, sys
import numpy as np
from tljax.extraction.cache import cached
def blocks():
  yield np.zeros((4, 1 << 14), np.float32)
  yield np.zeros((4, 1 << 14), np.float32)
  os.kill(os.getpid(), signal.SIGKILL)
cached(sys.argv[1], 'key', 10, blocks)
"""


def test_a_process_that_is_killed_leaves_no_array(tmp_path):
  command = [sys.executable, '-c', KILLED, str(tmp_path)]
  ended = subprocess.run(command, cwd=ROOT, env={**os.environ}, timeout=60)
  assert ended.returncode == -signal.SIGKILL
  assert [path.suffix for path in tmp_path.iterdir()] == ['.partial']
  np.testing.assert_array_equal(cached(tmp_path, 'key', 10, blocks), ROWS)
  assert [path.name for path in tmp_path.iterdir()] == ['key.npy']  # and no litter


def test_writers_at_once_all_get_the_array(tmp_path):
  """The first is in the middle of its file while others begin and end."""

  def nested(depth):
    def slow():
      yield ROWS[:4]
      if depth:
        inner = cached(tmp_path, 'key', 10, nested(depth - 1))
        np.testing.assert_array_equal(inner, ROWS)
      yield ROWS[4:]

    return slow

  np.testing.assert_array_equal(cached(tmp_path, 'key', 10, nested(2)), ROWS)
  assert [path.name for path in tmp_path.iterdir()] == ['key.npy']


def test_the_digest_is_of_the_content():
  tree = {'a': np.ones((2, 3), np.float32), 'b': [np.arange(4), 'text']}
  same = {'b': [np.arange(4), 'text'], 'a': jnp.ones((2, 3), jnp.float32)}
  assert digest(tree, 1) == digest(same, 1)
  assert re.fullmatch('[0-9a-f]{32}', digest(tree))
  others = [
    {**tree, 'a': np.ones((3, 2), np.float32)},
    {**tree, 'a': np.ones((2, 3), np.int32)},
    {**tree, 'a': np.nextafter(tree['a'], 2)},
    {'A': tree['a'], 'b': tree['b']},
    {**tree, 'b': [np.arange(4), 'texts']},
    {**tree, 'b': [np.arange(4)[::-1], 'text']},
  ]
  assert len({digest(other, 1) for other in [tree, *others]} | {digest(tree, 2)}) == 8


def test_the_digest_takes_half_precision_and_images(tmp_path):
  half = jnp.arange(3, dtype=jnp.bfloat16)
  assert digest(half) == digest(np.asarray(half)) != digest(half.astype(jnp.float16))
  source = loading.read('digits')['train']
  sizes = [digest(Images(source, Transform(size))) for size in (8, 16, 8)]
  assert sizes[0] == sizes[2] != sizes[1]
