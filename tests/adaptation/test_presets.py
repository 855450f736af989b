import math

import jax
import numpy as np
import optax
import pytest

from tljax import losses
from tljax.adaptation import presets
from tljax.errors import InputError
from tljax.models.base import Linear, Rescaled


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
  ('preset', 'name', 'rate', 'decays', 'weight_decay', 'slow', 'moves'),
  [
    ('library', 'jan', 0.003, 3.0, 5e-4, 0.1, 'nesterov'),  # 0.0003 x 10,000 steps
    ('library', 'mcd', 0.001, 0.0, 5e-4, 1.0, 'above'),
    ('digits', 'mdd', 0.01, 10.0, 5e-4, 0.1, 'nesterov'),
    ('digits:rate=0.1,weight_decay=0', 'dann', 0.1, 50.0, 0.0, 0.1, 'nesterov'),
    ('paper', 'dann', 0.01, 10.0, 0.0, 0.1, 'momentum'),
    ('paper', 'cdan+mcc', 0.01, 10.0, 1e-3, 0.1, 'nesterov'),
    ('paper', 'group_dro', 1e-3, 0.0, 1e-4, 1.0, 'momentum'),
    ('library', 'homm', 0.01, 20.0, 1e-3, 0.1, 'nesterov'),  # not there: DANN's
  ],
)
def test_a_preset_moves_parameters_as_torchs_sgd_does(
  preset, name, rate, decays, weight_decay, slow, moves
):
  """Against its update written out: with momentum or Nesterov's, or above alone."""
  steps = 40
  optimizer = presets.optimizer(preset, name, steps, 'pretrained')
  params = {'backbone': {'w': np.float32(2.0)}, 'head': {'w': np.float32(2.0)}}
  state = optimizer.init(params)
  at = {'backbone': 2.0, 'head': 2.0}
  momentum = dict.fromkeys(at, 0.0)
  for step in range(3):
    grads = {part: {'w': np.float32(step + 1.0)} for part in at}
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    now = rate * (1 + decays * step / steps) ** -0.75
    for part in at:
      grad = step + 1 + weight_decay * at[part]
      momentum[part] = 0.9 * momentum[part] + grad
      move = momentum[part]
      if moves == 'nesterov':
        move = grad + 0.9 * momentum[part]
      elif moves == 'above' and part == 'backbone':
        move = grad
      at[part] -= now * move * (slow if part == 'backbone' else 1.0)
      np.testing.assert_allclose(params[part]['w'], at[part], rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'at', 'wanted'),
  [
    ('dann', [0, 100], [0, 2 / (1 + math.exp(-1)) - 1]),
    ('iwan', [0, 100], [0, 0.1 * (2 / (1 + math.exp(-0.5)) - 1)]),
    ('irm', [0, 99, 100, 900], [1, 1, 100, 100]),
    ('vrex', [99, 100], [1, 10]),
    ('m3sda', [0, 900], [1e-4, 1e-4]),
  ],
)
def test_strengths_of_papers(points, points_batch, name, at, wanted):
  source = {**points_batch['source'], 'domain': np.arange(8, dtype=np.int32) % 2}
  batch = {**points_batch, 'source': source}
  method = presets.build(name, points, optax.sgd(0.0), 1000, preset='paper', domains=2)
  state, step = method.init(jax.random.key(0), None, batch), jax.jit(method.step)
  found = [
    step(state.replace(step=jax.numpy.int32(t)), batch)[1]['strength'] for t in at
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_tri_training_learns_from_the_source_for_a_thirtieth(points):
  found = presets.settings('paper', 'co_training')
  assert presets.options('co_training', 60, None, settings=found)['source_steps'] == 2


@pytest.mark.parametrize(
  ('preset', 'complaint'),
  [
    ('books', "'books' is unknown; choose one of library, digits, paper"),
    ('paper:speed=1', "'speed=1': .* none such; it has rate=0.01, weight_decay"),
    (
      'library:rate=fast',
      "'library:rate=fast': .* rate is a float such as 0.01",
    ),
    ('', "'' is unknown"),
    ('paper:rate=nan', 'a rate is above 0'),
    ('paper:backbone=-1', 'a rate is above 0'),
    ('paper:width=0', 'a width is 1 or more'),
    ('paper:norm=group', "a norm of .'layer', 'batch', 'none'.$"),
    ('paper:activation=gelu', "an activation is of .'relu', 'tanh', 'none'.$"),
  ],
)
def test_presets_that_are_none(preset, complaint):
  with pytest.raises(InputError, match=complaint):
    presets.settings(preset, 'dann')


def test_a_bottleneck_on_features_has_its_momentum():
  """Though its part is called the backbone, which MCD moves without."""
  params = {'backbone': np.float32([2.0]), 'head': np.float32([2.0])}
  moved = {}
  for backbone in ('scratch', 'none'):
    optimizer = presets.optimizer('library', 'mcd', 10, backbone)
    state = optimizer.init(params)
    for _ in range(2):
      updates, state = optimizer.update(params, state, params)
    moved[backbone] = {part: float(x[0]) for part, x in updates.items()}
  np.testing.assert_allclose(moved['none']['backbone'], moved['none']['head'])
  ratio = moved['none']['backbone'] / moved['scratch']['backbone']
  np.testing.assert_allclose(ratio, 1.9, rtol=1e-6)


def test_a_bottleneck_of_ones_own_where_the_preset_has_none():
  assert presets.settings('paper', 'jan').width is None
  assert presets.settings('paper:width=64,norm=batch', 'jan').width == 64
  assert presets.settings('paper:norm=batch', 'adabn').norm == 'batch'
  assert presets.settings('paper:activation=tanh', 'jan').activation == 'tanh'


def test_self_ensembling_moves_by_adam():
  """Whose first step is the rate, whatever the gradient; the library's is 1e-4."""
  optimizer = presets.optimizer('library', 'mean_teacher', 10)
  params = {'head': np.float32([2.0, -1.0])}
  grads = {'head': np.float32([7.0, -0.01])}
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates['head'], [-1e-4, 1e-4], rtol=1e-4)


def test_the_library_has_options_of_its_own(points, points_batch):
  losses = []
  for preset in (None, 'library'):
    method = presets.build('afn', points, optax.sgd(0.1), 40, preset=preset)
    state = method.init(jax.random.key(0), None, points_batch)
    losses.append(method.step(state, points_batch)[1]['alignment_loss'])
  assert losses[0] != losses[1]  # it minimises the target's entropy too


def test_self_ensembling_descends_the_librarys_loss(headed_points, points_batch):
  """3 x the sum of squares over classes and 0.01 x the mean of cross-entropies."""
  built = presets.build(
    'mean_teacher', headed_points, optax.sgd(0.1), 40, preset='library'
  )
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


@pytest.mark.parametrize('name', ['mean_teacher', 'mcd'])
def test_a_preset_of_classes_refuses_a_regression(headed_points, name):
  model = headed_points.clone(head=Rescaled(Linear(1), (0.0,), (1.0,)))
  given = {'task_loss': losses.squared_error, 'preset': 'library'}
  with pytest.raises(InputError, match=f'{name} tells classes apart'):
    presets.build(name, model, optax.sgd(0.1), 40, **given)


@pytest.mark.parametrize(('strength', 'peak'), [(None, 1.0), (0.5, 0.5)])
def test_the_librarys_reversal_warms_up_in_a_thousand_steps(
  points, points_batch, strength, peak
):
  method = presets.build(
    'dann', points, optax.sgd(0.1), 20_000, strength, preset='library'
  )
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
  assert loss('afn:entropy=0', preset='library') == loss('afn')


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
