import math

import jax
import numpy as np
import optax
import pytest

from tljax.adaptation import presets


@pytest.mark.parametrize(
  ('name', 'strength', 'peak', 'source_steps'),
  [
    ('mdd', None, 0.1, None),  # its own schedule's
    ('mdd', 0.5, 0.5, None),
    ('mcc', None, None, None),  # its own number, as it is
    ('mcc', 2.0, 2.0, None),
    ('shot', None, None, 20),
    ('tent', None, None, 20),
  ],
)
def test_each_method_is_given_its_options(name, strength, peak, source_steps):
  options = presets.options(name, 40, strength)
  wanted = {'strength': peak, 'source_steps': source_steps}
  assert options.keys() == {k for k, v in wanted.items() if v is not None}
  assert options.get('source_steps') == source_steps
  if peak:
    got = [options['strength'](step) for step in (0, 20, 10**6)]
    half = 2 / (1 + math.exp(-5)) - 1
    np.testing.assert_allclose(got, [0, half * peak, peak], rtol=1e-5)


def test_the_library_moves_parameters_as_its_sgd_does():
  """Against the update of torch's SGD with Nesterov momentum, written out."""
  steps, rate, decay = 40, 0.003, 5e-4
  optimizer = presets.library_optimizer('jan', steps, backbone_rate=0.1)
  params = {'backbone': {'w': np.float32(2.0)}, 'head': {'w': np.float32(2.0)}}
  state = optimizer.init(params)
  at = {'backbone': 2.0, 'head': 2.0}
  momentum = dict.fromkeys(at, 0.0)
  for step in range(3):
    grads = {part: {'w': np.float32(step + 1.0)} for part in at}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    for part, factor in (('backbone', 0.1), ('head', 1.0)):
      grad = step + 1 + decay * at[part]
      momentum[part] = 0.9 * momentum[part] + grad
      now = factor * rate * (1 + 20 * step / steps) ** -0.75
      at[part] -= now * (grad + 0.9 * momentum[part])
      np.testing.assert_allclose(params[part]['w'], at[part], rtol=1e-6)


def test_the_library_has_options_of_its_own(points, points_batch):
  losses = []
  for library in (False, True):
    method = presets.build('afn', points, optax.sgd(0.1), 40, library=library)
    state = method.init(jax.random.key(0), None, points_batch)
    losses.append(method.step(state, points_batch)[1]['alignment_loss'])
  assert losses[0] != losses[1]  # it minimises the target's entropy too
