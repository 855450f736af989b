import jax
import jax.numpy as jnp
import optax
import pytest

from tljax.finetuning import labels, lp_ft, plain


@pytest.fixture(params=['cpu', 'gpu'])
def backend(request, monkeypatch):
  """Either way to switch; both run anywhere."""
  monkeypatch.setattr(jax, 'default_backend', lambda: request.param)


def fit(method, state, stream, steps):
  step = jax.jit(method.step)
  for t in steps:
    state, _ = step(state, stream(t))
  return state


def test_it_is_a_probe_and_then_fine_tuning(model, family_batches, raw, backend):
  """One method is as two, with the second's optimiser new where the first ends."""
  del backend
  stream = family_batches['finetuning']
  probe_optimizer, optimizer = optax.adam(3e-2), optax.adamw(1e-3)
  method = lp_ft.method(
    model, optimizer, probe_steps=2, probe_optimizer=probe_optimizer
  )
  state = method.init(jax.random.key(0), None, stream(0))
  backbone = raw((state.params['backbone'], state.model_state))

  frozen, head_optimizer = labels.freeze(model, probe_optimizer, 'backbone/.*')
  twin = plain.method(frozen, head_optimizer)
  wanted = state.replace(opt_state=head_optimizer.init(state.params))
  wanted = fit(twin, wanted, stream, range(2))
  state = fit(method, state, stream, range(2))
  assert raw((state.params['backbone'], state.model_state)) == backbone
  close = jax.tree.map(
    lambda a, b: jnp.allclose(a, b, rtol=1e-5, atol=1e-6), state.params, wanted.params
  )
  assert all(jax.tree.leaves(close))

  tuning = plain.method(model, optimizer)
  wanted = state.replace(opt_state=optimizer.init(state.params))
  wanted = fit(tuning, wanted, stream, range(2, 4))
  probed = raw(state.opt_state[0])
  state = fit(method, state, stream, range(2, 4))
  assert raw(state.opt_state[0]) == probed
  assert raw(state.params['backbone']) != backbone
  close = jax.tree.map(
    lambda a, b: jnp.allclose(a, b, rtol=1e-4, atol=1e-5),
    (state.params, state.model_state),
    (wanted.params, wanted.model_state),
  )
  assert all(jax.tree.leaves(close))


def test_it_compiles_once_across_the_switch(model, family_batches, backend, caplog):
  del backend
  stream = family_batches['finetuning']
  method = lp_ft.method(model, optax.sgd(0.1), probe_steps=2)
  state = method.init(jax.random.key(0), None, stream(0))
  with jax.log_compiles():
    fit(method, state, stream, range(4))
  assert sum('Compiling jit(step)' in m for m in caplog.messages) == 1


def test_moments_of_the_probe_are_the_heads_alone(model, family_batches, raw):
  stream = family_batches['finetuning']
  method = lp_ft.method(model, optax.adam(1e-3))
  state = method.init(jax.random.key(0), None, stream(0))
  probe, tuning = (
    [name for name in raw(part) if '/mu/' in name] for part in state.opt_state
  )
  assert {name.split('/mu/')[1].split('/')[0] for name in probe} == {'head'}
  assert len(tuning) == len(jax.tree.leaves(state.params))


def test_it_tunes_what_is_not_frozen_already(model, family_batches, raw):
  stream = family_batches['finetuning']
  partial = labels.freeze(model, optax.adam(1e-2), 'backbone/stage1/.*')
  method = lp_ft.method(*partial, probe_steps=1)
  state = method.init(jax.random.key(0), None, stream(0))
  before = raw(state.params['backbone'])
  after = raw(fit(method, state, stream, range(3)).params['backbone'])
  moved = {name.split('/')[0] for name in before if before[name] != after[name]}
  assert moved == {'stage2'}
