import math

import jax
import numpy as np
import optax
import pytest

from tljax.adaptation import presets
from tljax.errors import InputError


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


@pytest.mark.parametrize(
  ('name', 'rate', 'gamma', 'library_steps'),
  [('jan', 0.003, 0.0003, 10_000), ('mcd', 0.001, 0.0, 20_000)],
)
def test_the_library_moves_parameters_as_its_sgd_does(name, rate, gamma, library_steps):
  """Against the update of torch's SGD, written out: with Nesterov momentum, or not."""
  steps, decay = 40, 5e-4
  optimizer = presets.library_optimizer(name, steps, backbone_rate=0.1)
  params = {'backbone': {'w': np.float32(2.0)}, 'head': {'w': np.float32(2.0)}}
  state = optimizer.init(params)
  at = {'backbone': 2.0, 'head': 2.0}
  momentum = dict.fromkeys(at, 0.0)
  for step in range(3):
    grads = {part: {'w': np.float32(step + 1.0)} for part in at}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    now = rate * (1 + gamma * library_steps * step / steps) ** -0.75
    for part in at:
      grad = step + 1 + decay * at[part]
      momentum[part] = 0.9 * momentum[part] + grad
      if name == 'mcd':
        at[part] -= now * (grad if part == 'backbone' else momentum[part])
      else:
        factor = 0.1 if part == 'backbone' else 1.0
        at[part] -= factor * now * (grad + 0.9 * momentum[part])
      np.testing.assert_allclose(params[part]['w'], at[part], rtol=1e-6)


def test_self_ensembling_moves_by_adam():
  """Whose first step is the rate, whatever the gradient; the library's is 1e-4."""
  optimizer = presets.library_optimizer('mean_teacher', 10)
  params = {'head': np.float32([2.0, -1.0])}
  grads = {'head': np.float32([7.0, -0.01])}
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates['head'], [-1e-4, 1e-4], rtol=1e-4)


def test_the_library_has_options_of_its_own(points, points_batch):
  losses = []
  for library in (False, True):
    method = presets.build('afn', points, optax.sgd(0.1), 40, library=library)
    state = method.init(jax.random.key(0), None, points_batch)
    losses.append(method.step(state, points_batch)[1]['alignment_loss'])
  assert losses[0] != losses[1]  # it minimises the target's entropy too


def test_self_ensembling_descends_the_librarys_loss(headed_points, points_batch):
  """3 x the sum of squares over classes and 0.01 x the mean of cross-entropies."""
  built = presets.build('mean_teacher', headed_points, optax.sgd(0.1), 40, library=True)
  state = built.init(jax.random.key(0), None, points_batch)
  # So sure a teacher teaches by all.
  state.params['head']['classifier']['kernel'] *= 50.0
  weak = points_batch['target']['image']
  batch = {**points_batch, 'target': {'image': weak, 'strong': weak + 0.5}}

  def predict(variables, images):
    logits = headed_points.apply(variables, images)['logits']
    return np.asarray(jax.nn.softmax(logits))

  student = predict(state.memory['student'], batch['target']['strong'])
  teacher = predict(state.variables, weak)
  sure = np.max(teacher, 1) >= 0.8
  assert 0 < sum(sure) < 8
  squares = np.mean(sure * np.sum(np.square(student - teacher), 1))
  mean = np.mean(student, 0)
  entropies = -np.mean(np.log(mean) / 3 + 2 * np.log(1 - mean) / 3)
  wanted = 3 * squares + 0.01 * np.mean(sure) * entropies
  found = built.step(state, batch)[1]['alignment_loss']
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize(('strength', 'peak'), [(None, 1.0), (0.5, 0.5)])
def test_the_librarys_reversal_warms_up_in_a_thousand_steps(
  points, points_batch, strength, peak
):
  method = presets.build('dann', points, optax.sgd(0.1), 20_000, strength, library=True)
  state = method.init(jax.random.key(0), None, points_batch)
  state = state.replace(step=state.step + 1000)
  found = method.step(state, points_batch)[1]['strength']
  np.testing.assert_allclose(found, peak * (2 / (1 + math.exp(-1)) - 1), rtol=1e-5)


def test_options_of_parts_are_read_from_the_name(points, points_batch):
  def loss(name, **options):
    method = presets.build(name, points, optax.sgd(0.1), 40, **options)
    state = method.init(jax.random.key(0), None, points_batch)
    return method.step(state, points_batch)[1]['loss']

  assert loss('mcc:temperature=1.0') != loss('mcc')
  assert loss('mcc:temperature=2.5') == loss('mcc')
  assert loss('afn:delta=3,entropy=0.1+mcc') != loss('afn+mcc')
  # A part's strength goes before that of all, and before the library's.
  assert loss('mcc:strength=0') == loss('mcc', strength=0.0)
  assert loss('afn:entropy=0', library=True) == loss('afn')


@pytest.mark.parametrize(
  ('name', 'complaint'),
  [
    ('cdan:width=3', "'width=3': .* none such; it has strength=1.0, entropy=False"),
    ('cdan:entropy=yes', 'entropy is True or False'),
    ('dann+mcc:strength', 'strength is a float such as 1.0'),
    ('mcc+mcc', "'mcc\\+mcc' has mcc twice"),
    ('magic:a=1', "'magic' is unknown"),
  ],
)
def test_options_that_are_none(points, name, complaint):
  with pytest.raises(InputError, match=complaint):
    presets.build(name, points, optax.sgd(0.1), 40)
