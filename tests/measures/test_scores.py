import numpy as np
import pytest

from tljax.measures import scores

LOGITS = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [5, 9, 7, 8], [1, 1, 0, 0]])
LABELS = np.array([0, 2, 0, 1])


@pytest.mark.parametrize(('top', 'share'), [(1, 0.25), (2, 0.75), (3, 0.75), (4, 1)])
def test_accuracy_by_hand(top, share):
  """Ranks of the labels: 1, 2, 4, and 2 as a tie goes to the lower index."""
  assert scores.accuracy(LOGITS, LABELS, top=top) == share


def test_accuracy_is_a_plain_float_for_json():
  assert type(scores.accuracy(LOGITS, LABELS)) is float


@pytest.fixture(params=[2, 7])
def predictions(request):
  rng = np.random.default_rng(0)
  labels = np.arange(60) % request.param
  logits = rng.normal(size=(60, request.param)) + 1.5 * np.eye(request.param)[labels]
  return np.float32(logits), labels


def test_classification_written_out(predictions):
  logits, labels = predictions
  count = logits.shape[1]
  figures = scores.classification(logits, labels)
  names = {'accuracy', 'macro_f1', 'auroc', 'cross_entropy', 'calibration_error'}
  assert set(figures) == names | ({'top_5_accuracy'} if count > 5 else set())
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  said = logits.argmax(1)
  f1, areas = [], []
  for k in range(count):
    hit = np.sum((said == k) & (labels == k))
    f1.append(2 * hit / (np.sum(said == k) + np.sum(labels == k)))
    inside, outside = p[labels == k, k], p[labels != k, k]
    areas.append(np.mean(inside[:, None] > outside[None]))
  assert figures['accuracy'] == pytest.approx(np.mean(said == labels))
  assert figures['macro_f1'] == pytest.approx(np.mean(f1))
  assert figures['auroc'] == pytest.approx(np.mean(areas))
  wanted = -np.mean(np.log(p[np.arange(60), labels]))
  assert figures['cross_entropy'] == pytest.approx(wanted, rel=1e-5)
  table = scores.by_class(logits, labels, list('abcdefg')[:count])
  assert [row['f1'] for row in table.values()] == pytest.approx(f1)
  assert sum(row['examples'] for row in table.values()) == 60
  recall = np.mean(said[labels == 1] == 1)
  assert table['b']['recall'] == pytest.approx(recall)


def test_cross_entropy_of_what_was_held_impossible():
  logits = np.float32([[50, 0], [0, 3]])
  figures = scores.classification(logits, np.array([1, 1]))
  assert figures['cross_entropy'] == pytest.approx((50 + np.log1p(np.exp(-3))) / 2)


def test_a_class_without_examples_has_no_curve():
  logits = np.float32([[2, 0, 1], [0, 1, 0]])
  figures = scores.classification(logits, np.array([0, 1]))
  assert 'auroc' not in figures and figures['accuracy'] == 1
  assert figures['macro_f1'] == pytest.approx(2 / 3)


def test_calibration_error_written_out(predictions):
  logits, labels = predictions
  p = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(1, keepdims=True)
  total = 0.0
  for low in np.linspace(0, 1, 16)[:-1]:
    inside = (p.max(1) > low) & (p.max(1) <= low + 1 / 15)
    if inside.any():
      gap = np.mean(p.argmax(1)[inside] == labels[inside]) - np.mean(p.max(1)[inside])
      total += abs(gap) * inside.sum() / len(labels)
  assert scores.calibration_error(p, labels) == pytest.approx(total)
  certain = np.eye(4)[[0, 1, 2, 3]]
  assert scores.calibration_error(certain, np.arange(4)) == 0
  assert scores.calibration_error(certain, np.array([0, 1, 3, 2])) == pytest.approx(0.5)


def test_regression_by_hand():
  targets = np.array([[1.0, 0], [2, 0], [6, 3]])
  predictions = np.array([[1.0, 1], [3, 0], [4, 3]])
  got = scores.regression(predictions, targets)
  errors = np.abs(predictions - targets)
  np.testing.assert_allclose(got['mae'], errors.mean())
  np.testing.assert_allclose(got['rmse'], np.sqrt((errors**2).mean(0)).mean())
  around = ((targets - targets.mean(0)) ** 2).sum(0)
  np.testing.assert_allclose(got['r2'], (1 - (errors**2).sum(0) / around).mean())
  assert all(type(value) is float for value in got.values())


def test_one_target_may_have_an_axis_of_its_own():
  targets = np.array([1.0, 2.0, 4.0])
  column = targets[:, None] + 0.5
  assert scores.regression(column, targets) == scores.regression(column[:, 0], targets)
  assert scores.regression(targets, targets) == {'mae': 0.0, 'rmse': 0.0, 'r2': 1.0}


def test_multi_label_by_hand():
  labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
  logits = np.array([[2.0, -1, -1], [1, -3, -1], [-1, 1, -1], [-2, -4, 1]])
  figures = scores.multi_label(logits, labels)
  # First class by rank: right, wrong, right: (1 + 2 / 3) / 2. Second: right, wrong,
  # right, wrong likewise. No example has the third, which has no curve.
  precision = {'a': (1 + 2 / 3) / 2, 'b': (1 + 2 / 3) / 2}
  np.testing.assert_allclose(
    figures['mean_average_precision'], np.mean(list(precision.values()))
  )
  # Said: a, a, b, c. Of a one is right, one wrong, one missed; of b one is missed.
  np.testing.assert_allclose(figures['macro_f1'], (1 / 2 + 2 / 3 + 0) / 3)
  np.testing.assert_allclose(figures['micro_f1'], 2 * 2 / (4 + 4))
  np.testing.assert_allclose(figures['exact'], 1 / 4)


def test_a_lone_class_is_judged_by_its_presence():
  logits, labels = np.float32([[1], [1], [-1], [-1]]), np.eye(4, 1, dtype=bool)
  figures = scores.multi_label(logits, labels)
  assert figures['macro_f1'] == figures['micro_f1'] == pytest.approx(2 / 3)
  (row,) = scores.by_class(logits, labels, ['cat']).values()
  wanted = {'precision': 0.5, 'recall': 1, 'f1': 2 / 3, 'examples': 1}
  assert row == pytest.approx(wanted)


def test_no_example_of_any_class_has_no_precision():
  figures = scores.multi_label(np.float32([[1, -1]]), np.zeros((1, 2), bool))
  assert np.isnan(figures['mean_average_precision'])


@pytest.mark.parametrize(
  ('labels', 'name', 'value'),
  [
    (np.int32([1, 1]), 'accuracy', 0.5),
    (np.array([[1, 0], [0, 1]], bool), 'mean_average_precision', 0.75),
    (np.float32([[2, 0], [0, 2]]), 'r2', (0 + 1) / 2),
  ],
)
def test_the_metric_goes_by_the_kind_of_labels(labels, name, value):
  outputs = np.float32([[1, 0], [1, 2]])
  assert scores.metric(labels) == name
  assert scores.score(outputs, labels) == pytest.approx(value)


def test_open_set_by_hand():
  """Of class 0 two thirds are right, of class 1 all, of 'unknown' a quarter."""
  labels = np.array([0, 0, 0, 1, 2, 2, 2, 2])
  predicted = [0, 0, 2, 1, 2, 0, 0, 1]
  figures = scores.open_set(np.eye(3)[predicted], labels)
  known = (2 / 3 + 1) / 2
  wanted = {'os_star': known, 'unk': 0.25, 'hos': 0.5 * known / (known + 0.25)}
  assert figures == pytest.approx(wanted)


def test_open_set_of_wrong_answers_alone():
  labels = np.array([0, 1, 2])
  assert scores.open_set(np.eye(3)[[1, 0, 0]], labels)['hos'] == 0.0
