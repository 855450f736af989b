import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation.phases import in_turn
from tljax.method import TrainState

START = {'w': np.float32(1)}


def change(name, factor):
  def step(state, batch):
    params = {'w': state.params['w'] * factor + batch}
    return state.replace(params=params), {'loss': jnp.float32(factor)}

  step.__name__ = name
  return step


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('source_steps', [0, 2, 9])
def test_the_phases_follow_each_other(monkeypatch, backend, source_steps):
  """Whichever way they are chosen between; both ways run on a CPU."""
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  phases = change('learn', 2.0), change('adapt', 10.0), optax.identity()
  step = jax.jit(in_turn(source_steps, *phases))
  state = TrainState(
    jnp.int32(0), jax.random.key(0), START, {}, optax.identity().init(START)
  )
  value, factors = 1.0, []
  for t in range(4):
    factor = 2.0 if t < source_steps else 10.0
    value = value * factor + t
    state, metrics = step(state, np.float32(t))
    factors.append(float(metrics['loss']) == factor)
    assert int(state.step) == t + 1
  assert all(factors)
  np.testing.assert_allclose(state.params['w'], value)


def test_what_is_thrown_away_may_be_infinite():
  none = optax.identity()
  step = in_turn(1, change('learn', 1.0), change('adapt', np.inf), none)
  state = TrainState(jnp.int32(0), jax.random.key(0), START, {}, none.init(START))
  after, _ = step(state, np.float32(1))
  np.testing.assert_allclose(after.params['w'], 2)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_the_second_phase_begins_with_a_new_optimiser(monkeypatch, backend):
  """Adam's first step is one whole rate, whatever the first phase's gradients were."""
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  optimizer = optax.adam(0.1)

  def descend(slope):
    def step(state, batch):
      grads = {'w': jnp.float32(slope) * batch}
      updates, opt_state = optimizer.update(grads, state.opt_state)
      params = optax.apply_updates(state.params, updates)
      return state.replace(params=params, opt_state=opt_state), {}

    return step

  step = jax.jit(in_turn(3, descend(100.0), descend(1.0), optimizer))
  params = {'w': jnp.float32(0)}
  state = TrainState(
    jnp.int32(0), jax.random.key(0), params, {}, optimizer.init(params)
  )
  found = []
  for _ in range(5):
    state, _ = step(state, np.float32(1))
    found.append(float(state.params['w']))
  np.testing.assert_allclose(found, [-0.1, -0.2, -0.3, -0.4, -0.5], rtol=1e-5)
