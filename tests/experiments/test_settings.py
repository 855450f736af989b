"""What each strategy is trained on, without training."""

import jax
import numpy as np
import optax
import pytest

from experiments import settings
from tljax import adaptation
from tljax.adaptation import mcd
from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.models import Linear
from tljax.models.bottleneck import OnFeatures
from tljax.models.heads import Hidden, WeightNorm
from tljax.train import Trial


@pytest.fixture(scope='module')
def source():
  """Features that number the examples, of two classes; the target's count from 100."""
  return numbered(0)


@pytest.fixture(scope='module')
def target():
  return numbered(100)


def numbered(first):
  images = first + np.arange(20, dtype=np.float32)[:, None]
  return Dataset(images, np.arange(20, dtype=np.int32) % 2, ('even', 'odd'))


@pytest.fixture
def stream(model, source, target, tmp_path):
  """Returns `(name, **flags) -> batches` of the strategy or method of that name."""

  def stream(name, **changes):
    flags = settings.Flags(out=tmp_path, batch_size=8, **changes)
    method = None
    if name in adaptation.names():
      method = adaptation.create(name, model, optax.sgd(0.1))
    return flags.batches_for(name, method, [source], target, seed=3)

  return stream


def numbers(stream, *names, steps=5):
  """Which examples a stream shows, sorted."""
  seen = []
  for step in range(steps):
    batch = stream(step)
    for name in names:
      batch = batch[name]
    seen += batch['image'][:, 0].astype(int).tolist()
  return sorted(seen)


def test_without_labels_of_the_target(stream):
  assert numbers(stream('source_only')) == sorted([*range(20)] * 2)
  assert numbers(stream('oracle')) == sorted([*range(100, 120)] * 2)
  for name in ('dann', 'adda'):
    batches = stream(name)
    assert numbers(batches, 'source') == sorted([*range(20)] * 2)
    assert numbers(batches, 'target') == sorted([*range(100, 120)] * 2)
    assert {k: list(v) for k, v in batches(0).items()} == {
      'source': ['image', 'label'],
      'target': ['image'],
    }


def test_a_few_labels_of_the_target(stream, target):
  """Three a class, each as often as the others, whoever learns from them."""
  batches = stream('dann', target_shots=3)
  few = numbers(batches, 'labelled', steps=6)
  assert len(few) == 48 and len(set(few)) == 6
  assert set(np.bincount(few)) == {0, 8}
  assert [sum(i % 2 == k for i in set(few)) for k in (0, 1)] == [3, 3]
  one = batches(4)['labelled']
  np.testing.assert_array_equal(one['image'][:, 0] % 2, one['label'])
  assert set(few) == set(target.shots(3, seed=3).images[:, 0].astype(int))
  assert 'label' not in batches(0)['target']
  assert numbers(batches, 'source') == sorted([*range(20)] * 2)

  # Methods that know no such stream, and the baseline, take them for the source's.
  both = stream('source_and_target', target_shots=3)
  wanted = sorted([*range(20)] * 6 + [*set(few)] * 20)
  assert numbers(both, steps=15) == wanted
  both = stream('adda', target_shots=3)
  assert numbers(both, 'source', steps=15) == wanted
  assert 'labelled' not in both(0) and 'label' not in both(0)['target']


@pytest.mark.parametrize(('name', 'size'), [('fixmatch', 24), ('dann', 8)])
def test_the_library_has_batches_of_its_own(model, tmp_path, name, size):
  flags = settings.Flags(out=tmp_path, batch_size=8, preset='library')
  sets = [
    Dataset(d.images.repeat(2, 0), d.labels.repeat(2), d.classes)
    for d in (numbered(0), numbered(100))
  ]
  method = adaptation.create(name, model, optax.sgd(0.1))
  batch = flags.batches_for(name, method, sets[:1], sets[1], seed=3)(0)
  assert [len(batch[k]['image']) for k in ('source', 'target')] == [8, size]


def test_methods_that_the_library_has_not_are_named(tmp_path, capsys):
  flags = settings.Flags(out=tmp_path, model='cnn', preset='library')
  names = ('source_only', 'dann', 'cdan:entropy=True', 'coral', 'cdan+bnm')
  flags.adaptation(names, flags.build_model(2), 10)
  wanted = '--preset library: it has no {}, which gets those of DANN'
  assert capsys.readouterr().err.splitlines() == [
    wanted.format(name) for name in ('coral', 'bnm')
  ]


def test_a_target_smaller_than_the_librarys_batch_is_refused(model, tmp_path):
  flags = settings.Flags(out=tmp_path, batch_size=8, preset='library')
  method = adaptation.create('fixmatch', model, optax.sgd(0.1))
  sets = numbered(0), numbered(100)
  with pytest.raises(InputError, match='20 examples; choose one up to 6'):
    flags.batches_for('fixmatch', method, sets[:1], sets[1], seed=3)


def test_fixmatchs_views_are_of_the_target(model, tmp_path):
  """The strong one is more than flipped and shifted; the source has the weak one."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
  dataset = Dataset(images, np.arange(8, dtype=np.int32) % 2, ('even', 'odd'))
  flags = settings.Flags(out=tmp_path, batch_size=8, augment='fixmatch')
  method = adaptation.create('fixmatch', model, optax.sgd(0.1))
  batch = flags.batches_for('fixmatch', method, [dataset], dataset, seed=3)(0)
  assert {k: set(v) for k, v in batch.items()} == {
    'source': {'image', 'label'},
    'target': {'image', 'strong'},
  }

  def colours_kept(view):
    """Whether each value is one of a byte's, as flips and shifts leave it."""
    bytes_ = 255 * np.asarray(view)
    return np.allclose(bytes_, np.round(bytes_), atol=1e-3)

  for view in (batch['source']['image'], batch['target']['image']):
    assert colours_kept(view)
    assert not np.allclose(255 * view, images[: len(view)], atol=1e-3)
  assert not colours_kept(batch['target']['strong'])
  oracle = flags.batches_for('oracle', None, [dataset], dataset, seed=3)(0)
  assert set(oracle) == {'image', 'label'}


def test_a_pretrained_network_has_a_bottleneck_and_heads_that_differ(tmp_path):
  """By the presets MCD has none, but hidden layers in its heads. What starts from
  published weights moves at a tenth of the rate.
  """
  batch = {'image': np.float32(np.random.default_rng(0).uniform(size=(4, 16, 16, 3)))}
  batch['label'] = np.arange(4) % 2
  batch = {'source': batch, 'target': {'image': batch['image']}}
  flags = {'out': tmp_path, 'model': 'cnn', 'weights': 'cnn.safetensors'}
  shapes = {}
  for preset in (None, 'library', 'paper'):
    one = settings.Flags(**flags, preset=preset)
    method = one.adaptation(('mcd',), one.build_model(2), 10)['mcd']
    state = method.init(jax.random.key(0), None, batch)
    heads = (state.params[part]['classifier']['kernel'] for part in mcd.HEADS)
    assert not np.allclose(*heads)
    first = state.params['bottleneck' if preset is None else 'second_head']
    shapes[preset] = first['dense' if preset is None else 'fc1']['kernel'].shape
    assert ('bottleneck' in state.params) == (preset is None)
    assert ('head' in state.model_state['batch_stats']) == bool(preset)
  assert shapes == {None: (64, 256), 'library': (64, 1024), 'paper': (64, 1000)}

  scratch = settings.Flags(**flags | {'weights': None})
  moved = []
  for one in (settings.Flags(**flags), scratch):
    method = one.adaptation(('coral',), one.build_model(2), 10)['coral']
    before = method.init(jax.random.key(0), None, batch)
    after = method.step(before, batch)[0]
    conv = [s.params['backbone']['stage1']['conv']['kernel'] for s in (before, after)]
    moved.append(np.abs(conv[1] - conv[0]).max())
  assert 'bottleneck' not in before.params
  np.testing.assert_allclose(moved[1], 10 * moved[0], rtol=0.01)  # Adam's first step


@pytest.mark.parametrize(
  ('preset', 'name', 'has_weights', 'width'),
  [
    ('digits', 'mdd', False, 1024),
    ('digits', 'source_only', False, 256),
    ('digits', 'mcd', False, None),
    ('library', 'mdd', False, None),
    ('paper', 'cdan', True, 256),
    ('paper', 'jan', True, None),
  ],
)
def test_which_networks_have_a_bottleneck(tmp_path, preset, name, has_weights, width):
  weights = 'cnn.safetensors' if has_weights else None
  flags = settings.Flags(out=tmp_path, model='cnn', weights=weights, preset=preset)
  found = flags.build_for(name, flags.build_model(2)).bottleneck
  assert (found and found.width) == width
  below = flags.build_for(name, OnFeatures(Linear(2))).backbone
  assert below.width == (width or (1024 if name == 'mdd' else 256))
  assert below.norm == ('none' if preset == 'paper' else 'batch')


@pytest.mark.parametrize(
  ('preset', 'name', 'has_weights', 'kind'),
  [
    ('library', 'mdd', True, Hidden),
    ('library', 'mcd', True, Hidden),
    ('digits', 'mcd', False, Hidden),
    ('library', 'mcd', False, Linear),  # of published weights, or none of its own
    ('paper', 'shot', True, WeightNorm),
    ('paper', 'cdan', True, Linear),
    ('library', 'afn', True, Linear),
    (None, 'mcd', True, Linear),
  ],
)
def test_which_methods_have_a_head_of_their_own(
  tmp_path, preset, name, has_weights, kind
):
  weights = 'cnn.safetensors' if has_weights else None
  flags = settings.Flags(out=tmp_path, model='cnn', weights=weights, preset=preset)
  head = flags.build_for(name, flags.build_model(5)).head
  assert (type(head), head.num_classes) == (kind, 5)
  on_features = flags.build_for(name, OnFeatures(Linear(5)))
  assert type(on_features.head) is (Hidden if name == 'mcd' and preset else kind)
  assert on_features.backbone.dropout == (0.5 if name in ('mdd', 'afn') else 0)
  assert on_features.backbone.keeps_length == (name == 'afn')


def test_the_activation_of_a_preset(tmp_path):
  """By each paper, such as none after SHOT's batch norm."""
  flags = settings.Flags(
    out=tmp_path, model='cnn', weights='cnn.safetensors', preset='paper'
  )
  model = flags.build_model(2)
  for name, shape in {
    'shot': ('batch', 'none'),
    'mcc': ('batch', 'none'),
    'bsp': ('none', 'relu'),
    'homm': ('none', 'tanh'),
    'wdgrl': ('none', 'relu'),
    'cdan': ('none', None),
  }.items():
    for one in (
      flags.build_for(name, model).bottleneck,
      flags.build_for(name, OnFeatures(Linear(2))).backbone,
    ):
      assert (one.norm, one.activation) == shape


def test_an_open_setting(model, source, target, tmp_path):
  """The baseline may answer 'unknown', which is scored."""
  flags = settings.Flags(out=tmp_path, setting='open', source_classes=('odd',))
  splits = {'train': source, 'validation': source}, {'validation': target}
  (source,), target = flags.match([splits[0]], {'train': target, **splits[1]})
  assert source['train'].classes == ('odd', 'unknown') and len(source['train']) == 10
  assert set(source['train'].labels) == {0}
  method = flags.adaptation(flags.baselines, model, 10)['source_only']
  images = np.random.default_rng(0).uniform(size=(40, 8, 8, 3)).astype(np.float32)
  state = method.init(jax.random.key(0), None, {'image': images})
  predicted = np.argmax(method.predict(state, images), -1)
  assert 9 in predicted  # an untrained network is not sure of anything
  logits = np.eye(2)[[0, 1] * 10]
  figures = flags.scores(Trial(None, [], logits, 0.5), target)
  assert figures == {'os_star': 0.0, 'unk': 0.0, 'hos': 0.0}
  balanced = settings.Flags(out=tmp_path, setting='open', balanced=True, batch_size=8)
  stream = balanced.batches_for(
    'source_only', method, [source['train']], target['train'], seed=0
  )
  assert numbers(stream) == sorted([*range(1, 20, 2)] * 4)
  closed = settings.Flags(out=tmp_path)
  assert closed.scores(Trial(None, [], logits, 0.5), target) == {}
