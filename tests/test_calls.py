"""Several steps in one call of the device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import train
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.run import Run


@pytest.fixture
def fit(model, family_batches, one_device):
  """Returns `(steps, per_call, batches=None, ...) -> state, records`: from seed 0."""
  method, stream = plain.method(model, optax.adam(1e-3)), family_batches['finetuning']

  def fit(steps, per_call, batches=None, every=5, **options):
    state = method.init(jax.random.key(0), None, stream(0))
    shared = {'every': every, 'mesh': one_device, 'steps_per_call': per_call}
    return train.fit(method, state, batches or stream, steps, **shared, **options)

  return fit


def test_several_steps_in_a_call_are_as_many_calls(fit, raw, tmp_path, caplog):
  one, records = fit(11, 1)
  with jax.log_compiles():
    several, found = fit(11, 2)
    again, _ = fit(11, 2)
  compiled = [m for m in caplog.messages if 'Compiling jit(steps)' in m]
  assert len(compiled) == 1 and 'float32[2,' not in compiled[0]
  assert raw(again) == raw(several)
  chex.assert_trees_all_close(several.params, one.params, rtol=1e-4, atol=1e-6)
  assert int(several.step) == 11 and [r['step'] for r in found] == [5, 10, 11]
  for here, there in zip(found, records, strict=True):
    np.testing.assert_allclose(here['loss'], there['loss'], rtol=1e-5)
  run = Run.open(tmp_path, {}, resume=False)
  fit(5, 2, run=run)
  resumed, _ = fit(11, 2, run=run)
  assert raw(resumed) == raw(several)


@pytest.mark.parametrize(
  ('start', 'lengths'), [(0, [2, 2, 1, 2, 2, 1, 1]), (4, [1, 2, 2, 1, 1])]
)
def test_calls_end_at_records_and_are_the_same_from_any_start(start, lengths):
  calls = list(train._calls(start, 11, every=5, most=2))
  assert [step for call in calls for step in call] == list(range(start, 11))
  assert [len(call) for call in calls] == lengths


def test_a_loss_within_a_call_names_its_step(fit, family_batches):
  def poisoned(step):
    batch = family_batches['finetuning'](step)
    return {**batch, 'image': batch['image'] * jnp.nan} if step == 5 else batch

  with pytest.raises(InputError, match='loss is nan at step 6, the first'):
    fit(16, 4, poisoned, every=8)
