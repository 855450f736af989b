"""The tables of published settings: their schedules, and that all can be trained by."""

import re

import jax
import numpy as np
import optax
import pytest

from tljax import adaptation, models
from tljax.adaptation import presets, published
from tljax.models import Linear
from tljax.models.bottleneck import OnFeatures


@pytest.mark.parametrize(
  ('name', 'at', 'share'),
  [
    ('adda', [0, 19, 20, 39], [1, 1, 0.2, 0.2]),
    ('shot', [0, 10, 20, 30], [1, 6**-0.75, 1, 6**-0.75]),
    ('fixmatch', [0, 20, 40], [1, np.cos(7 * np.pi / 32), np.cos(7 * np.pi / 16)]),
    ('mixstyle', [0, 20, 40], [1, 0.5, 0]),
    ('mcd', [0, 39], [1, 1]),
    ('irm', [0, 39], [1, 1]),
  ],
)
def test_rates_of_papers(name, at, share):
  found = published.PAPER[name]
  rate = found.decay(found.rate, 40)
  wanted = found.rate * np.array(share)
  np.testing.assert_allclose([rate(step) for step in at], wanted, 1e-5, 1e-9)


@pytest.mark.parametrize(
  ('preset', 'rate', 'gamma'),
  [(published.LIBRARY, (0.001, 0.001), 6), (published.DIGITS, (0.001, 0.01), 15)],
)
def test_the_librarys_adda_begins_anew_after_three_epochs(preset, rate, gamma):
  """Of 23 epochs; its schedules, and its reversal's warm start, count the other 20."""
  found, switch, rest = preset['adda'], 30, 200
  steps = switch + rest
  assert int(found.first_phase * steps) == switch
  of, strength = found.decay(found.rate, steps), found.ramp(steps, found.strength)
  first, second = rate
  wanted = [first, first * (1 + 0.15 * gamma) ** -0.75]
  wanted += [second, second * (1 + gamma) ** -0.75]
  at = [0, switch - 1e-4, switch, steps]
  np.testing.assert_allclose([of(step) for step in at], wanted, rtol=1e-4)
  thousand = rest / (20 if preset is published.LIBRARY else 50)
  at = [0, switch, switch + thousand, steps]
  wanted = [0, 0, 2 / (1 + np.exp(-1)) - 1, 1]
  np.testing.assert_allclose([strength(step) for step in at], wanted, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'rate', 'strengths'),
  [
    ('irm', 5e-4, (1.0, 1.0)),
    ('vrex', 5e-4, (1.0, 3.0)),
    ('group_dro', 5e-4, None),
    ('source_coral', 5e-4, None),
    ('mixstyle', 1e-3, None),
  ],
)
def test_the_librarys_methods_of_several_sources(name, rate, strengths):
  """Cosines over 10,000 steps; IRM's and V-REx's begin anew where a strength jumps.

  Against what torch's scheduler has in their scripts, written out.
  """
  found, steps, switch = published.LIBRARY[name], 10_000, 500
  at = np.array([0, 499, 500, 5250, 9999])
  wanted = (1 + np.cos(np.pi * at / steps)) / 2
  if strengths:
    anew = (1 + np.cos(np.pi * (at - switch) / (steps - switch))) / 2
    wanted = np.where(at < switch, wanted, anew)
    strength = found.ramp(steps, found.strength)
    assert [float(strength(t)) for t in (499, 500)] == list(strengths)
  schedule = found.decay(found.rate, steps)
  np.testing.assert_allclose([schedule(t) for t in at], rate * wanted, 1e-4, 1e-9)
  assert (found.weight_decay, found.backbone, found.width) == (5e-4, 1.0, None)


def test_which_methods_have_which_presets():
  """Each by name, so that neither a table nor the docstring changes by itself."""
  every, text = set(adaptation.names()), ' '.join(published.__doc__.split())

  def listed(words):
    after = text.split(words, 1)[1]
    return set(re.findall(r'\w+', re.split('[.:]', after)[0])) - {'and'}

  missing = {
    'library': 'adabn bnm cmd co_training coral cst dare_gram dctn deepjdot entropy '
    'homm m3sda mada mme ovanet sdat shot tent wdgrl',
    'paper': 'adabn dctn self_training',
  }
  for preset, names in missing.items():
    assert set(names.split()) == every - set(published.PRESETS[preset])
    assert listed(f'`{preset}` has not ') == set(names.split())
  digits = 'adda afn bsp cdan dan dann jan mcc mcd mdd'
  assert set(digits.split()) == set(published.DIGITS) == listed('`digits` has only ')


@pytest.mark.parametrize('preset', published.PRESETS)
def test_each_method_of_a_preset_can_be_built_and_stepped(preset, family_batches):
  """By shapes alone; a misspelt option, or one of another method, would not."""
  model = models.create('cnn', 10)
  batch = family_batches['adaptation'](0)
  domain = np.arange(len(batch['source']['label']), dtype=np.int32) % 2
  batch = {**batch, 'source': {**batch['source'], 'domain': domain}}
  assert set(published.PRESETS[preset]) <= set(adaptation.names())
  for name in published.PRESETS[preset]:
    optimizer = presets.optimizer(preset, name, 40)
    method = presets.build(name, model, optimizer, 40, preset=preset, domains=2)
    state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
    after, metrics = jax.eval_shape(method.step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state), name
    assert metrics['loss'].shape == ()


@pytest.mark.parametrize('preset', published.PRESETS)
def test_which_discriminators_have_the_librarys_batch_norms(
  preset, headed_points, points_batch
):
  """Those of its scripts, but IWAN's; no paper's. All are 1,024 wide, as theirs are."""
  found = {}
  for name in published.PRESETS[preset]:
    if 'discriminator' not in adaptation.defaults(name) or name == 'dctn':
      continue
    method = presets.build(name, headed_points, optax.sgd(0.1), 40, preset=preset)
    state = jax.eval_shape(method.init, jax.random.key(0), None, points_batch)
    judge = state.params.get('discriminator', state.params.get('discriminators'))
    found[name] = 'LayerNorm_1' in judge
    width = judge['Dense_1']['kernel'].shape[-1]
    assert width == (1024 if name != 'mada' else 256)
  wanted = {
    'library': ('adda', 'bsp', 'cdan', 'dann', 'pada'),
    'digits': ('adda', 'bsp', 'cdan', 'dann'),
    'paper': (),
  }
  assert {name for name, has in found.items() if has} == set(wanted[preset])
  assert found.get('iwan', False) is False


@pytest.mark.parametrize('preset', published.PRESETS)
def test_a_method_that_a_preset_has_not_has_its_own_options(preset, headed_points):
  """Not DANN's, whose settings it has: it may have no discriminator."""
  names = set(adaptation.names()) - set(published.PRESETS[preset])
  assert names
  for name in names:
    presets.build(name, headed_points, optax.sgd(0.1), 40, preset=preset)


@pytest.mark.parametrize(
  ('preset', 'name', 'classes', 'width'),
  [
    ('library', 'cdan', 31, 256 * 31),  # Office-31
    ('library', 'cdan', 65, 256 * 65),  # Office-Home
    ('library', 'cdan', 345, 51_200),  # DomainNet; its scripts have 1,024 features
    ('library', 'cdan:widest=4096,random_width=512', 31, 512),
    ('paper', 'cdan', 31, 1024),
  ],
)
def test_what_cdans_discriminator_sees(preset, name, classes, width):
  """All products where the library's scripts have them; the paper's past 4,096 not."""
  optimizer = presets.optimizer(preset, name, 40)
  model = OnFeatures(Linear(classes))
  method = presets.build(name, model, optimizer, 40, preset=preset)
  features = np.zeros((4, 8), np.float32)
  batch = {'source': {'image': features, 'label': np.arange(4, dtype=np.int32)}}
  batch['target'] = {'image': features}
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  kernel = state.params['discriminator']['Dense_0']['kernel']
  assert kernel.shape == (width, 1024)
  assert ('random_map' in state.params) == (width not in (256 * 31, 256 * 65))
