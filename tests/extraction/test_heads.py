"""Every head by its name: fitted or trained, swept or not, and who chooses."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from tljax.data.dataset import Dataset
from tljax.errors import InputError
from tljax.extraction import heads, ridge, search
from tljax.extraction.head import linear
from tljax.run import Run

pytestmark = pytest.mark.usefixtures('compile_fast')
NAMES = heads.Name.__args__


@pytest.fixture(autouse=True)
def on_one_device(monkeypatch, one_device):
  monkeypatch.setattr('tljax.sharding.data_mesh', lambda *_: one_device)


@pytest.fixture
def run(tmp_path):
  return Run.open(tmp_path, {}, resume=False)


def digits(pixels, rows):
  return Dataset(pixels[0][rows] / np.float32(16), pixels[1][rows], tuple('0123456789'))


@pytest.fixture
def splits(pixels):
  return digits(pixels, np.s_[:300]), digits(pixels, np.s_[300:500])


@pytest.mark.parametrize('name', NAMES)
def test_a_head_by_default(splits, run, name):
  settings = heads.settings(name, False, 1e-2)
  find = heads.searcher(name, settings, splits[0], epochs=10, batch_size=32)
  found = find(*splits, 0, run)
  (head,) = found.heads
  accuracy = search.score(head, splits[1])
  logits = head.logits(splits[1].images)
  assert logits.shape == (200, 10)
  np.testing.assert_allclose(accuracy, np.mean(logits.argmax(1) == splits[1].labels))
  assert accuracy > 0.75
  assert found.records[-1]['validation_accuracy'] == accuracy
  assert found.records[-1]['seconds'] >= 0
  assert run.records(f'{name}-0') == [{'run': f'{name}-0', **r} for r in found.records]
  find(*splits, 0, run)  # once more, as --resume does
  assert len(run.records(f'{name}-0')) == len(found.records)


@pytest.mark.parametrize('name', ['linear', 'logistic', 'knn', 'nearest_mean'])
def test_a_sweep_has_the_head_of_each_setting(splits, run, name):
  settings = heads.settings(name, True, 1e-3)
  assert len(settings) > 1
  options = {'epochs': 3, 'batch_size': 32}
  found = heads.searcher(name, settings, splits[0], **options)(*splits, 0, run)
  assert len(found.heads) == len(settings)
  alone = heads.searcher(name, settings[-1:], splits[0], **options)
  other = Run.open(run.folder / 'alone', {}, resume=False)
  (wanted,) = alone(*splits, 0, other).heads
  images = splits[1].images
  np.testing.assert_allclose(
    found.heads[-1].logits(images), wanted.logits(images), rtol=1e-3, atol=1e-3
  )
  accuracies = [search.score(head, splits[1]) for head in found.heads]
  assert found.records[-1]['validation_accuracy'] == max(accuracies)


def test_a_setting_that_diverges_leaves_the_others(splits, run):
  settings = [
    {**s, 'learning_rate': np.inf} for s in heads.settings('linear', False, 1e-2)
  ]
  settings += heads.settings('linear', False, 1e-2)
  options = {'epochs': 10, 'batch_size': 32}
  found = heads.searcher('linear', settings, splits[0], **options)(*splits, 0, run)
  bad, good = (search.score(head, splits[1]) for head in found.heads)
  assert bad == -np.inf and good > 0.75
  with pytest.raises(InputError, match='the loss is nan'):
    heads.searcher('linear', settings[:1], splits[0], **options)(
      *splits, 0, Run.open(run.folder / 'alone', {}, resume=False)
    )


@pytest.mark.parametrize('name', ['mlp', 'linear', 'ridge', 'knn'])
@pytest.mark.parametrize('targets', [1, 2])
def test_a_regression(run, name, targets):
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(300, 4)))
  y = np.float32(1000 + 50 * x[:, :targets] + rng.normal(size=(300, targets)))
  y = y[:, 0] if targets == 1 else y
  training, validation = (Dataset(x[s], y[s], ()) for s in np.s_[:200, 200:])
  settings = heads.settings(name, False, 1e-2)
  find = heads.searcher(name, settings, training, epochs=60, batch_size=20)
  found = find(training, validation, 0, run)
  predicted = found.heads[0].logits(validation.images)
  truth = validation.labels.reshape(predicted.shape)
  spread = np.sum((truth - truth.mean(0)) ** 2, 0)
  r2 = np.mean(1 - np.sum((truth - predicted) ** 2, 0) / spread)
  np.testing.assert_allclose(search.score(found.heads[0], validation), r2, rtol=1e-4)
  np.testing.assert_allclose(found.records[-1]['validation_r2'], r2, rtol=1e-4)
  assert r2 > (0.8 if name == 'knn' else 0.98)


@pytest.mark.parametrize('sweeps', [False, True])
def test_a_linear_probe_of_few_steps_knows_where_its_features_are(run, sweeps):
  """Its training does not see their mean; what it is judged by must not either."""
  rng = np.random.default_rng(0)
  x, labels = np.float32(rng.normal(size=(160, 4))), np.arange(160) % 2
  x[:, 0] += 4 * labels
  logits = []
  for offset in (0, 64):
    images = x + np.float32(offset)
    training, validation = (
      Dataset(images[s], labels[s], ('a', 'b')) for s in np.s_[:80, 80:]
    )
    settings = heads.settings('linear', sweeps, 1e-2)
    find = heads.searcher('linear', settings, training, epochs=2, batch_size=16)
    found = find(training, validation, 0, run)
    logits.append([head.logits(validation.images) for head in found.heads])
  np.testing.assert_allclose(*logits, atol=2e-3)


def test_biases_do_not_decay(run):
  """Of features that say nothing they are the shares of the classes."""
  x, labels = np.zeros((40, 2), np.float32), np.int32(np.arange(40) % 4 == 0)
  data = Dataset(x, labels, ('a', 'b'))
  settings = [{'learning_rate': 0.1, 'weight_decay': 10.0}]
  find = heads.searcher('linear', settings, data, epochs=200, batch_size=40)
  a, b = find(data, data, 0, run).heads[0].logits(x[:1])[0]
  np.testing.assert_allclose(a - b, np.log(3), rtol=1e-3)


def test_ridge_leaves_out_all_views_of_an_example(run):
  """What is learned by heart from its other views is no reason for a small penalty."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(40, 30)), np.float32(rng.normal(size=40))
  views = [np.float32(x + 0.1 * rng.normal(size=x.shape)) for _ in range(3)]
  examples = Dataset(np.arange(40), y, ())
  training = Dataset(np.concatenate(views), np.tile(y, 3), ())
  find = heads.searcher('ridge', [{}], examples, epochs=1, batch_size=1)
  (head,) = find(training, training, 0, run).heads
  scaled = StandardScaler().fit_transform(training.images)
  folds = LeaveOneGroupOut().split(scaled, groups=np.tile(np.arange(40), 3))
  scoring = 'neg_mean_squared_error'
  theirs = RidgeCV(ridge.LAMBDAS, cv=list(folds), scoring=scoring)
  theirs.fit(scaled, training.labels)
  assert (
    theirs.alpha_ == 10 > RidgeCV(ridge.LAMBDAS).fit(scaled, training.labels).alpha_
  )
  wanted = theirs.predict(scaled)[:, None]
  np.testing.assert_allclose(head.logits(training.images), wanted, atol=1e-4)


@pytest.mark.parametrize('name', ['mlp', 'linear', 'logistic'])
def test_several_classes(pixels, run, name):
  """Of each digit whether it is even, above four, and prime."""
  digit = pixels[1][:, None]
  labels = np.concatenate([digit % 2 == 0, digit > 4, np.isin(digit, (2, 3, 5, 7))], 1)
  x, classes = pixels[0] / np.float32(16), ('even', 'above four', 'prime')
  training, validation = (
    Dataset(x[s], labels[s], classes) for s in np.s_[:400, 400:600]
  )
  settings = heads.settings(name, False, 1e-2)
  find = heads.searcher(name, settings, training, epochs=20, batch_size=32)
  found = find(training, validation, 0, run)
  score = search.score(found.heads[0], validation)
  assert found.records[-1]['validation_mean_average_precision'] == score > 0.85
  trial = search.judge(found, 0, validation)
  assert trial.logits.shape == (200, 3) and np.isnan(trial.accuracy)
  assert np.mean((trial.logits > 0) == validation.labels) > 0.8


def test_heads_of_one_class_refuse_several():
  training = Dataset(np.zeros((3, 2), np.float32), np.eye(3, dtype=bool), tuple('abc'))
  with pytest.raises(InputError, match='--head knn gives one class.*mlp, linear, logi'):
    heads.searcher('knn', [{}], training, 1, 1)


@pytest.mark.parametrize('name', ['logistic', 'nearest_mean', 'svm'])
def test_heads_of_classes_refuse_targets(name):
  training = Dataset(np.zeros((3, 2), np.float32), np.zeros(3, np.float32), ())
  with pytest.raises(InputError, match=f'--head {name} .*choose one of mlp, linear'):
    heads.searcher(name, [{}], training, 1, 1)


def test_maps_are_for_the_mlp_alone():
  heads.check_shape('mlp', (7, 7, 512))
  heads.check_shape('ridge', (512,))
  with pytest.raises(InputError, match=r'ridge takes rows.*\(7, 7, 512\).*--pooling'):
    heads.check_shape('ridge', (7, 7, 512))


def guess(k):
  """A head that always says k."""
  return linear(np.zeros((2, 3)), np.eye(3)[k])


def test_the_validation_split_chooses_by_the_mean_over_seeds():
  labels = np.int32([0, 0, 0, 1, 1, 2])
  validation = Dataset(np.zeros((6, 2), np.float32), labels, ('a', 'b', 'c'))
  found = [
    search.Candidates([guess(k) for k in seed], []) for seed in ((0, 1, 2), (2, 1, 1))
  ]
  assert search.choose(found, validation) == 0  # 1/2 and 1/6; 1/3 twice; 1/6 and 1/3
  found = [search.Candidates([guess(2), guess(1), guess(1)], [])]
  assert search.choose(found, validation) == 1


def test_what_diverged_is_never_chosen():
  validation = Dataset(np.ones((4, 2), np.float32), np.arange(4, dtype=np.float32), ())
  bad = linear(np.full((2, 1), np.nan), np.zeros(1))
  poor = linear(np.zeros((2, 1)), np.full(1, 1e6))
  assert search.choose([search.Candidates([bad, poor], [])], validation) == 1


@pytest.mark.parametrize('classes', [('a', 'b'), ()])
def test_what_chooses_is_not_what_judges(classes):
  rng = np.random.default_rng(0)
  labels = np.int32(np.arange(40) % 2) if classes else np.float32(rng.random(40))
  training = Dataset(np.arange(40), labels, classes)
  validation = Dataset(np.arange(40, 50), labels[:10], classes)
  held = search.hold_out({'train': training, 'validation': validation})
  assert held['test'] is validation
  parts = held['train'].images, held['validation'].images
  assert [len(part) for part in parts] == [32, 8]
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(40))
  np.testing.assert_array_equal(held['validation'].labels, labels[parts[1]])
  assert search.hold_out(held) == held
