import decimal

import jax
import numpy as np
import optax
import pytest
from scipy.optimize import brentq, minimize

from tljax.errors import InputError
from tljax.finetuning import co_tuning
from tljax.models import Linear

RELATIONSHIP = np.random.default_rng(0).dirichlet(np.ones(4), size=10)


@pytest.fixture
def source_head():
  """A classifier of four on the tiny network's eight features."""
  head = Linear(4)
  outputs = {'features': np.ones((1, 8), np.float32)}
  return head, head.init(jax.random.key(4), outputs)['params']


def softmax(logits):
  powers = np.exp(logits - np.max(logits, -1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def test_one_step(check_step, source_head, family_batches):
  labels = family_batches['finetuning'](0)['label']

  def penalty(params, start, outputs, images):
    del start, images
    classifier = params['source_head']['classifier']
    logits = outputs['features'] @ classifier['kernel'] + classifier['bias'][None]
    likely = jax.nn.log_softmax(logits)
    wanted = np.float32(RELATIONSHIP[labels])
    return 0.7 * -(wanted * likely).sum() / len(labels)

  def build(model, optimizer):
    options = {'source_head': source_head, 'relationship': RELATIONSHIP}
    return co_tuning.method(model, optimizer, strength=0.7, **options)

  check_step(build, penalty)


def test_the_given_head_is_where_it_starts_and_survives(
  model, family_batches, source_head, raw
):
  stream = family_batches['finetuning']
  before = raw(source_head[1])
  method = co_tuning.method(
    model, optax.adam(1e-2), source_head=source_head, relationship=RELATIONSHIP
  )
  state = method.init(jax.random.key(0), None, stream(0))
  assert raw(state.params['source_head']) == before
  state, _ = jax.jit(method.step, donate_argnums=0)(state, stream(0))
  after = raw(state.params['source_head'])
  assert all(after[name] != before[name] for name in before)
  assert raw(source_head[1]) == before


def test_of_certain_predictions_the_relationship_is_their_shares():
  """p(y_s | y_t) is then the table of counts."""
  rng = np.random.default_rng(0)
  source, labels = rng.integers(0, 5, 400), rng.integers(0, 3, 400)
  labels[source == 1] = 2  # what is never together has no share
  logits = 40.0 * np.eye(5)[source]
  counts = np.zeros((3, 5))
  np.add.at(counts, (labels, source), 1)
  got = co_tuning.learn_relationship(logits, labels, logits, labels, [1e4])
  np.testing.assert_allclose(
    got, counts / counts.sum(1, keepdims=True), rtol=0.01, atol=2e-3
  )


@pytest.mark.parametrize('classes', [2, 3])
def test_the_relationship_by_a_slow_version(classes):
  """The penalised likelihood by a general optimiser, the scale by its slope."""
  rng = np.random.default_rng(0)
  labels, held_out = (np.arange(n) % classes for n in (60, 30))
  centres = 2 * rng.normal(size=(classes, 4))
  logits, held_out_logits = (
    centres[y] + rng.normal(size=(len(y), 4)) for y in (labels, held_out)
  )
  seen, later = softmax(logits), softmax(held_out_logits)

  def cost(w, penalty):
    if classes == 2:  # scikit-learn penalises the one vector that counts
      square, full = w @ w, np.stack([np.zeros(4), w], 1)
    else:
      square, full = w @ w, w.reshape(4, classes)
    likely = np.log(softmax(seen @ full))
    return square / 2 / penalty - likely[np.arange(60), labels].sum()

  fits, right = [], []
  for penalty in (1.0, 0.01):
    size = 4 * (classes if classes > 2 else 1)
    w = minimize(cost, np.zeros(size), args=(penalty,), tol=1e-10).x
    w = np.stack([np.zeros(4), w], 1) if classes == 2 else w.reshape(4, classes)
    fits.append(w)
    right.append(np.mean(np.argmax(later @ w, 1) == held_out))
  weights = fits[int(np.argmax(right))]
  scores = later @ weights

  def slope(scale):  # of the validation split's cross-entropy
    expected = np.sum(softmax(scale * scores) * scores, 1)
    return np.mean(expected - scores[np.arange(30), held_out])

  scale = brentq(slope, 1e-3, 1e3, xtol=1e-10)
  both = np.concatenate([seen, later])
  wanted = np.empty((classes, 4))
  for t in range(classes):
    for s in range(4):
      wanted[t, s] = both[:, s].mean() * softmax(scale * weights[s])[t]
    wanted[t] /= wanted[t].sum()
  got = co_tuning.learn_relationship(
    logits, labels, held_out_logits, held_out, [1.0, 0.01]
  )
  np.testing.assert_allclose(got, wanted, rtol=2e-3)


def test_a_class_unlikely_of_all_source_classes_has_a_relationship(monkeypatch):
  """Two tell nine apart, so clearly that what is between them is no float."""
  labels, shares = np.arange(9), np.linspace(0.05, 0.95, 9)
  logits = np.log(np.stack([shares, 1 - shares], 1))
  centres = 2 * shares - 1  # the logits are 4 times minus the squared distance
  weights = 4 * np.stack([2 * centres - centres**2, -2 * centres - centres**2])
  monkeypatch.setattr(co_tuning, '_regress', lambda *_: weights)
  got = co_tuning.learn_relationship(logits, labels, logits, labels)
  scale = co_tuning.calibrate(softmax(logits) @ weights, labels)
  scaled = scale * weights
  assert (softmax(scaled) == 0).all(0).any()
  powers = [[decimal.Decimal(w).exp() for w in row] for row in scaled]
  for t in range(9):  # both source classes have the share 1/2
    joint = [powers[s][t] / sum(powers[s]) for s in (0, 1)]
    wanted = [float(j / sum(joint)) for j in joint]
    np.testing.assert_allclose(got[t], wanted, rtol=1e-9, atol=1e-300)


def test_calibration_undoes_a_scale():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(20000, 4))
  labels = np.array([rng.choice(4, p=p) for p in softmax(logits)])
  np.testing.assert_allclose(co_tuning.calibrate(5 * logits, labels), 0.2, rtol=0.05)


def test_a_class_without_an_example_is_named():
  logits, labels = np.zeros((2, 3)), np.array([0, 2])
  with pytest.raises(InputError, match='class 1 has no training example'):
    co_tuning.learn_relationship(logits, labels, logits, labels)


def test_nothing_held_out_is_one_line():
  logits, labels = np.zeros((2, 3)), np.array([0, 1])
  with pytest.raises(InputError, match='no example is held out .*; give 3 of a class'):
    co_tuning.learn_relationship(logits, labels, logits[:0], labels[:0])


def test_classes_without_a_relationship_are_refused(model, family_batches, source_head):
  batch = family_batches['finetuning'](0)
  method = co_tuning.method(model, optax.sgd(0.1), source_head=source_head)
  state = method.init(jax.random.key(0), None, batch)
  with pytest.raises(InputError, match='classifier has 4 classes, the relationship 10'):
    jax.eval_shape(method.step, state, batch)
