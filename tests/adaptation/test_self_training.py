import jax
import numpy as np
import optax
import pytest

from tljax.adaptation import pseudo, self_training


@pytest.mark.parametrize(
  ('options', 'strength', 'threshold'),
  [({'strength': 0.5, 'threshold': 0.4}, 0.5, 0.4), ({'threshold': 0.0}, 1.0, 0.0)],
)
def test_one_step(check_step, options, strength, threshold):
  def term(source, target):
    del source
    logits = target['logits']
    return strength * pseudo.confident_cross_entropy(logits, logits, threshold)

  check_step(lambda *args: self_training.method(*args, **options), term)


def test_unsure_targets_teach_nothing(points, points_batch):
  """With the default threshold none of these is sure at the start."""
  method = self_training.method(points, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, points_batch)
  _, metrics = method.step(state, points_batch)
  np.testing.assert_array_equal(metrics['alignment_loss'], 0)
