"""Scores of transferability: closed forms, brute force, published code's numbers."""

import itertools

import numpy as np
import pytest
import threadpoolctl
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from tljax.errors import InputError
from tljax.measures import evidence, labelled, source_predictions, transferability

SCORES = transferability.OF_FEATURES


@pytest.fixture(autouse=True)
def one_thread():
  """With a busy neighbour, threads wait for each other longer than they work."""
  with threadpoolctl.threadpool_limits(1):
    yield


@pytest.fixture
def examples():
  """Features (120, 6) of three classes that overlap, and labels."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat([0, 1, 2], [30, 40, 50]))
  return rng.normal(size=(120, 6)) + rng.normal(size=(3, 6))[labels], labels


@pytest.fixture
def wide():
  """Features (20, 50) of two classes: fewer examples than features."""
  rng = np.random.default_rng(1)
  labels = np.repeat([0, 1], 10)
  return rng.normal(size=(20, 50)) + 0.3 * labels[:, None], labels


def orthogonal(width):
  return np.linalg.qr(np.random.default_rng(2).normal(size=(width, width)))[0]


def log_evidence(point, features, target):
  """Of y ~ N(0, 1 / beta + F F' / alpha), by its density."""
  alpha, beta = np.exp(np.clip(point, -25, 25))
  count = len(features)
  covariance = np.eye(count) / beta + features @ features.T / alpha
  _, log_det = np.linalg.slogdet(covariance)
  quadratic = target @ np.linalg.solve(covariance, target)
  return -(log_det + quadratic + count * np.log(2 * np.pi)) / 2 / count


@pytest.mark.parametrize('shape', ['examples', 'wide'])
def test_logme_is_the_largest_evidence(shape, request):
  features, labels = (x[:40] for x in request.getfixturevalue(shape))
  best = []
  for k in np.unique(labels):
    target = np.float64(labels == k)
    starts = [
      -optimize.minimize(
        lambda p, t=target: -log_evidence(p, features, t),
        start,
        method='Nelder-Mead',
        options={'xatol': 1e-6, 'fatol': 1e-10, 'maxiter': 2000},
      ).fun
      for start in itertools.product((0, 4), (2,))
    ]
    best.append(max(starts))
  np.testing.assert_allclose(evidence.logme(features, labels), np.mean(best), rtol=1e-6)


def test_logme_of_one_feature_and_of_several_targets(examples):
  features, labels = examples
  targets = features[:, :2] + np.random.default_rng(3).normal(size=(120, 2))
  each = [evidence.logme(features[:, 2:3], column) for column in targets.T]
  both = evidence.logme(features[:, 2:3], targets)
  np.testing.assert_allclose(both, np.mean(each))
  classes = np.stack([labels == k for k in range(3)], 1).astype(float)
  np.testing.assert_allclose(
    evidence.logme(features, labels), evidence.logme(features, classes)
  )


def test_logme_grows_with_what_features_tell_and_knows_no_scale(examples):
  features, labels = examples
  noise = np.random.default_rng(4).normal(size=features.shape)
  clean, dim = evidence.logme(features, labels), evidence.logme(noise, labels)
  assert clean > evidence.logme(features + 2 * noise, labels) > dim
  np.testing.assert_allclose(evidence.logme(1e3 * features, labels), clean, rtol=1e-6)


def test_published_code_gives_the_same(shared_data):
  with np.load(shared_data / 'reference/losses.npz') as file:
    reference = dict(file)
  features, labels = (reference[f'input/score_{k}'] for k in ('features', 'labels'))
  predictions = reference['input/score_predictions']
  source_labels = reference['input/score_source_labels']
  found = {
    'h_score': transferability.h_score(features, labels),
    'h_score_regularized': transferability.shrunk_h_score(features, labels),
    'transrate': transferability.transrate(features, labels),
    'leep': source_predictions.leep(predictions, labels),
    'nce': source_predictions.nce(source_labels, labels),
  }
  for name, value in found.items():
    np.testing.assert_allclose(value, reference[f'{name}/value'], rtol=1e-9)
  # That code stops before the maximum.
  targets = reference['input/score_targets']
  for name, of in (('classification', labels), ('regression', targets)):
    theirs = reference[f'logme_{name}/value']
    assert theirs <= evidence.logme(features, of) <= theirs + 1e-5


@pytest.mark.parametrize('name', SCORES)
def test_names_and_order_of_labels_and_examples_do_not_matter(name, examples):
  features, labels = examples
  score = SCORES[name](features, labels)
  renamed = SCORES[name](features, np.array([70, -3, 9])[labels])
  if name != 'linear probe':  # whose solver stops before the optimum
    np.testing.assert_allclose(renamed, score, rtol=1e-9)
  order = np.random.default_rng(5).permutation(len(labels))
  if name not in ('linear probe', 'N-LEEP', 'GBC', 'PARC'):  # which draw
    shuffled = SCORES[name](features[order], labels[order])
    np.testing.assert_allclose(shuffled, score, rtol=1e-9)


@pytest.mark.parametrize('name', sorted(set(SCORES) - {'linear probe', 'PARC'}))
def test_rotating_and_moving_features_does_not_matter(name, examples):
  """But for scores that look at coordinates; and LogME has no bias."""
  features, labels = examples
  moved = (features + (0 if name == 'LogME' else 3)) @ orthogonal(6)
  np.testing.assert_allclose(
    SCORES[name](moved, labels), SCORES[name](features, labels), rtol=1e-3
  )


@pytest.mark.parametrize('name', SCORES)
def test_classes_further_apart_score_higher(name, examples):
  features, labels = examples
  apart = features + 6 * np.eye(3, 6)[labels]
  noise = np.random.default_rng(6).normal(size=features.shape)
  scores = [SCORES[name](x, labels) for x in (noise, features, apart)]
  assert max(scores[:2]) < scores[2]


@pytest.mark.parametrize('name', SCORES)
def test_what_scores_cannot_compare_is_refused(name, examples):
  features, labels = examples
  with pytest.raises(InputError, match='one label'):
    SCORES[name](features, np.zeros_like(labels))
  with pytest.raises(InputError, match='same features'):
    SCORES[name](np.ones_like(features), labels)
  with pytest.raises(InputError, match='not of the same examples'):
    SCORES[name](features[1:], labels)
  with pytest.raises(InputError, match='finite'):
    SCORES[name](np.full_like(features, np.nan), labels)


@pytest.mark.parametrize('name', SCORES)
def test_dead_features_and_few_examples_are_no_trouble(name, examples, wide):
  features, labels = examples
  dead = np.concatenate([features, np.zeros((120, 3)), np.ones((120, 1))], 1)
  assert np.isfinite(SCORES[name](dead, labels))
  if name == 'H-score':
    np.testing.assert_allclose(
      SCORES[name](dead, labels), SCORES[name](features, labels)
    )
  assert np.isfinite(SCORES[name](*wide))
  assert np.isfinite(SCORES[name](np.repeat(features[:4], 5, 0), np.repeat([0, 1], 10)))


def test_h_score_of_two_gaussians():
  """Of means +-m and covariance I it is m'm / (1 + m'm), in the limit."""
  rng = np.random.default_rng(7)
  labels = np.repeat([0, 1], 40_000)
  mean = np.array([0.5, 1.0, 0.0])
  features = rng.normal(size=(80_000, 3)) + np.where(labels, 1, -1)[:, None] * mean
  expected = mean @ mean / (1 + mean @ mean)
  for score in (transferability.h_score, transferability.shrunk_h_score):
    np.testing.assert_allclose(score(features, labels), expected, rtol=0.01)


def test_h_score_without_shrinkage_says_nothing_of_few_examples(wide):
  features, labels = wide
  for scale in (1, 0.3, 1e3):  # to the last bit, as rounding would rank networks
    assert transferability.h_score(scale * features, labels) == 1
  assert transferability.shrunk_h_score(features, labels) < 0.9


def test_shrunk_h_score_has_ledoit_and_wolfs_covariance(examples):
  features, labels = examples
  covariance, shrinkage = ledoit_wolf(features)
  means = np.stack([features[labels == k].mean(0) for k in labels])
  between = (1 - shrinkage) * np.cov(means.T)
  expected = np.trace(np.linalg.solve(covariance, between))
  np.testing.assert_allclose(transferability.shrunk_h_score(features, labels), expected)


def test_gbc_of_spheres(examples):
  """By the closed form of Bhattacharyya's coefficient, pair by pair."""
  features, labels = examples
  total = 0
  for i, j in itertools.permutations(range(3), 2):
    (m, v), (n, w) = (
      (x.mean(0), x.var(0).mean()) for x in (features[labels == k] for k in (i, j))
    )
    fit = (2 * np.sqrt(v * w) / (v + w)) ** (6 / 2)
    total -= fit * np.exp(-np.sum((m - n) ** 2) / (v + w) / 4)
  np.testing.assert_allclose(transferability.gbc(features, labels), total, rtol=1e-5)


def test_transrate_by_determinants(examples, wide):
  for features, labels in (examples, wide):
    centred = features - features.mean(0)

    def rate(rows):
      scaled = rows.T @ rows / len(rows) / 1e-4
      return np.linalg.slogdet(np.eye(rows.shape[1]) + scaled)[1] / 2

    expected = rate(centred) - np.mean(
      [rate(centred[labels == k]) for k in np.unique(labels)]
    )
    np.testing.assert_allclose(transferability.transrate(features, labels), expected)


def test_parc_is_spearmans_correlation(examples):
  features, labels = examples
  points, _ = labelled.principal(features, 32)
  points = points / points.std(0)
  pairs = np.triu_indices(120, 1)
  apart = (1 - np.corrcoef(points))[pairs]
  other = (1 - np.corrcoef(np.eye(3)[labels]))[pairs]
  expected = 100 * stats.spearmanr(apart, other.round(9)).statistic
  found = transferability.parc(features, labels)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_parc_leaves_out_components_that_are_rounding(examples):
  features, labels = examples
  padded = np.pad(features, ((0, 0), (0, 34)))
  wanted = transferability.parc(features, labels)
  np.testing.assert_allclose(transferability.parc(padded, labels), wanted, rtol=1e-3)


def test_the_probe_leaves_out_classes_of_one_example():
  labels = np.repeat(np.arange(20), [1] * 10 + [10] * 10)
  features = np.eye(20)[labels]
  assert transferability.linear_probe(features, labels, examples=60) == 1
  with pytest.raises(InputError, match='of 11 examples no two classes'):
    transferability.linear_probe(features[:11], labels[:11])


def test_what_is_drawn_has_each_class_in_proportion():
  labels = np.repeat([7, -3, 40], [6000, 3000, 1000])
  features = np.stack([np.arange(10000), labels], 1)
  drawn, kept = labelled.drawn(features, labels, 100, seed=1)
  np.testing.assert_array_equal(drawn[:, 1], kept)
  assert len(set(drawn[:, 0])) == 100
  counts = [np.sum(kept == k) for k in (7, -3, 40)]
  np.testing.assert_allclose(counts, [60, 30, 10], atol=1)
  other, _ = labelled.drawn(features, labels, 100, seed=2)
  assert len({*drawn[:, 0], *other[:, 0]}) > 150


def test_a_sample_has_so_many_of_the_rarest_class_at_least():
  labels = np.repeat([0, 1, 2, 3], [5000, 5000, 3, 1])
  rows = labelled.sample(labels, 50, seed=0, least=2)
  assert len(set(rows)) == 50
  counts = np.bincount(labels[rows])
  np.testing.assert_array_equal(counts[2:], [2, 1])
  assert abs(counts[0] - counts[1]) <= 2


def test_shrinkage_of_one_feature(examples):
  features, labels = examples[0][:, :1], examples[1]
  plain = transferability.h_score(features, labels)
  shrunk = transferability.shrunk_h_score(features, labels)
  np.testing.assert_allclose(shrunk * (len(labels) - 1) / len(labels), plain, rtol=1e-6)


def test_shrinkage_of_directions_alike():
  """Of a covariance that is the identity's multiple, whatever rounding leaves."""
  corners = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
  labels = np.array([1, 1, 0, 0])
  for angle in np.linspace(0, 1, 7):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = transferability.shrunk_h_score(corners @ turn, labels)
    np.testing.assert_allclose(found, 4 / 3)


def test_the_probe_has_two_of_each_class_however_many_there_are():
  labels = np.repeat(np.arange(30), 4)
  features = np.eye(30)[labels] + 0.3 * np.random.default_rng(0).normal(size=(120, 30))
  few, same, all_of_them = (
    transferability.linear_probe(features, labels, examples=n) for n in (20, 60, 120)
  )
  assert 0.2 < few == same != all_of_them < 1


def test_targets_that_are_no_numbers_are_refused(examples):
  features, _ = examples
  targets = np.stack([features[:, 0], features[:, 1]], 1)
  targets[3, 0] = np.nan
  with pytest.raises(InputError, match='not finite'):
    transferability.logme(features, targets)


def test_probe_and_neighbours_are_accuracies_on_what_was_held_out(examples):
  features, labels = examples
  nearest = KNeighborsClassifier(1)
  found = cross_val_predict(nearest, features, labels, cv=LeaveOneOut())
  assert transferability.neighbours(features, labels) == np.mean(found == labels)
  scaled = (features - features.mean(0)) / features.std(0)
  seen = LogisticRegression(C=0.1).fit(scaled, labels).score(scaled, labels)
  held_out = transferability.linear_probe(features, labels)
  assert seen - 0.15 < held_out <= seen
  alone = transferability.linear_probe(features, np.array([3, *labels[1:]]))
  assert alone == transferability.linear_probe(features[1:], labels[1:])


def test_leep_by_hand():
  """Of two examples that share a source class and one of another."""
  probabilities = np.array([[1, 0], [1, 0], [0.5, 0.5]])
  labels = np.array([0, 1, 1])
  # p(y | z): joint (0, .): 1, 0; (1, .): 1.5, 0.5; sums 2.5, 0.5.
  expected = np.log([1 / 2.5, 1.5 / 2.5, 0.5 * 1.5 / 2.5 + 0.5 * 1]).mean()
  found = source_predictions.leep(probabilities, labels)
  np.testing.assert_allclose(found, expected)


def test_leep_and_nce_of_sure_predictions_are_the_conditional_entropy():
  rng = np.random.default_rng(8)
  source, labels = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
  joint = np.histogram2d(source, labels, (4, 3))[0] / 200
  expected = -stats.entropy(joint.ravel()) + stats.entropy(joint.sum(1))
  np.testing.assert_allclose(source_predictions.nce(source, labels), expected)
  found = source_predictions.leep(np.eye(6)[source], labels)  # two classes unused
  np.testing.assert_allclose(found, expected)
  assert source_predictions.nce(labels + 5, labels) == 0


@pytest.mark.parametrize(
  ('predictions', 'message'),
  [
    (np.full((3, 2), 2.0), 'softmax'),
    (np.array([[1.5, -0.5]] * 3), 'softmax'),
    (np.full((2, 2), 0.5), 'not of the same'),
  ],
)
def test_leep_refuses_what_is_no_probability(predictions, message):
  with pytest.raises(InputError, match=message):
    source_predictions.leep(predictions, np.array([0, 1, 1]))


@pytest.mark.parametrize(('size', 'components'), [(300, 15), (40, 8)])
def test_n_leep_is_of_a_mixture_of_principal_components(size, components):
  """Those of four fifths of the variance; five Gaussians a class, which five examples
  each can be of; LEEP by its sums.
  """
  rng = np.random.default_rng(3)
  labels = np.arange(size) % 3
  scales = np.array([3.0, 2, 1.5, 1, 0.5, 0.3])
  features = (rng.normal(size=(size, 6)) + np.eye(6)[labels]) * scales
  points = PCA(0.8, svd_solver='full').fit_transform(features)
  assert 2 <= points.shape[1] < 6
  mixture = GaussianMixture(components, random_state=0).fit(points)
  clusters = mixture.predict_proba(points)
  joint = np.stack([clusters[labels == k].sum(0) for k in range(3)]) / size
  given = joint / joint.sum(0)
  wanted = np.mean(
    [np.log(given[k] @ row) for k, row in zip(labels, clusters, strict=True)]
  )
  found = source_predictions.n_leep(features, labels)
  np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_n_leep_of_clear_clusters_is_zero():
  rng = np.random.default_rng(9)
  labels = np.repeat([0, 1], 40)
  features = 0.1 * rng.normal(size=(80, 5)) + 10 * labels[:, None]
  np.testing.assert_allclose(source_predictions.n_leep(features, labels), 0, atol=1e-6)


@pytest.mark.parametrize('shape', ['examples', 'wide'])
def test_all_at_once_are_the_scores_one_by_one(shape, request):
  features, labels = request.getfixturevalue(shape)
  features = features + 100.0  # means far from zero, which a Gram matrix may drown in
  found = transferability.score(features, labels)
  assert list(found) == list(SCORES)
  for name, of in SCORES.items():
    np.testing.assert_allclose(found[name], of(features, labels), rtol=1e-8, atol=1e-10)
