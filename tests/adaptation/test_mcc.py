import jax.numpy as jnp
import numpy as np
import pytest

from tljax.adaptation import mcc


def predict(logits, temperature):
  return [np.exp(z / temperature) / np.sum(np.exp(z / temperature)) for z in logits]


@pytest.mark.parametrize('temperature', [1.0, 2.5])
def test_class_confusion(check_slow, temperature):
  """The weights are held, as they are constants to the gradient."""
  logits = np.random.default_rng(0).normal(size=(6, 3)) * 2
  rows = predict(logits, temperature)
  weights = [1 + np.exp(sum(p * np.log(p) for p in row)) for row in rows]

  def slow(logits):
    rows, total = predict(logits, temperature), 0.0
    for j in range(3):
      confusions = [
        sum(w * row[j] * row[k] for w, row in zip(weights, rows, strict=True))
        for k in range(3)
      ]
      total += (sum(confusions) - confusions[j]) / sum(confusions)
    return total / 3

  check_slow(lambda logits: mcc.class_confusion(logits, temperature), slow, logits)


@pytest.mark.parametrize('temperature', [1.0, 2.5])
def test_the_published_loss(check_reference, library_entropy, temperature):
  def loss(logits):
    return mcc.class_confusion(logits, temperature)

  check_reference(f'mcc_T={temperature}', loss, ['logits_t'])


def test_limits():
  """Certain predictions are not confused; equal ones are, with all classes alike."""
  certain = 100 * jnp.eye(4)
  np.testing.assert_allclose(mcc.class_confusion(certain, 1.0), 0, atol=1e-6)
  np.testing.assert_allclose(mcc.class_confusion(jnp.zeros((5, 4))), 0.75, rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'strength', 'temperature'),
  [({}, 1.0, 2.5), ({'strength': 0.5, 'temperature': 1.5}, 0.5, 1.5)],
)
def test_one_step(check_step, options, strength, temperature):
  def term(source, target):
    del source
    return strength * mcc.class_confusion(target['logits'], temperature)

  check_step(lambda *args: mcc.method(*args, **options), term)
