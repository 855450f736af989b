import jax
import numpy as np
import optax

from tljax import train
from tljax.finetuning import ema, l2_sp, plain


def test_the_average_written_out(model, family_batches):
  stream = family_batches['finetuning']
  alone = plain.method(model, optax.adam(1e-2))
  method = ema.averaged(alone, decay=0.3)
  state = method.init(jax.random.key(0), None, stream(0))
  twin = alone.init(jax.random.key(0), None, stream(0))
  wanted = jax.tree.map(np.float64, twin.variables)
  step, twin_step = jax.jit(method.step), jax.jit(alone.step)
  for t in range(1, 6):
    state, _ = step(state, stream(t))
    twin, _ = twin_step(twin, stream(t))
    keep = min(0.3, (1 + t) / (10 + t))  # it binds from the third step on
    wanted = jax.tree.map(
      lambda a, w, keep=keep: keep * a + (1 - keep) * np.float64(w),
      wanted,
      twin.variables,
    )
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
    ema.average(state),
    wanted,
  )
  images = stream(0)['image']
  logits = method.predict(state, images)
  deployed = model.apply(ema.average(state), images)['logits']
  np.testing.assert_allclose(logits, deployed, rtol=1e-5, atol=1e-6)


def test_the_method_trains_as_it_would_alone(model, family_batches, raw):
  stream = family_batches['finetuning']
  alone = l2_sp.method(model, optax.adam(1e-2))
  method = ema.averaged(alone)
  state = method.init(jax.random.key(0), None, stream(0))
  twin = alone.init(jax.random.key(0), None, stream(0))
  for t in range(2):
    state, _ = method.step(state, stream(t))
    twin, _ = alone.step(twin, stream(t))
  assert raw(state.variables) == raw(twin.variables)
  assert raw(state.memory.inner) == raw(twin.memory)


def test_its_state_is_donated_and_the_pretrained_survive(
  model, family_batches, one_device, raw
):
  stream = family_batches['finetuning']
  pretrained = model.init(jax.random.key(1), stream(0)['image'])
  before = raw(pretrained)
  method = ema.averaged(plain.method(model, optax.sgd(0.1)))
  state = method.init(jax.random.key(0), pretrained, stream(0))
  assert raw(ema.average(state)) == before
  train.fit(method, state, stream, 2, mesh=one_device)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
  assert raw(pretrained) == before
