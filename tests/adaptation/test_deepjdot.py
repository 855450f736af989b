import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from tljax.adaptation import deepjdot

RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 2))
LOGITS, LABELS = RNG.normal(size=(4, 3)), np.array([2, 0, 1])


@pytest.mark.parametrize('soft', [False, True])
def test_joint_cost(check_slow, soft):
  labels = np.array([[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.2, 0.6]]) if soft else LABELS
  truth = labels if soft else np.eye(3)[labels]

  def slow(source, target, logits):
    total = 0.0
    for i in range(3):
      for j in range(4):
        p = np.exp(logits[j]) / np.sum(np.exp(logits[j]))
        entry = 0.3 * np.sum((source[i] - target[j]) ** 2) - truth[i] @ np.log(p)
        total += (i + 2 * j) * entry
    return total

  def weighted(source, target, logits):
    cost = deepjdot.joint_cost(source, jnp.asarray(labels), target, logits, 0.3)
    weights = jnp.arange(3.0)[:, None] + 2 * jnp.arange(4.0)[None]
    return jnp.sum(weights * cost)

  check_slow(weighted, slow, SOURCE, TARGET, LOGITS)


def test_one_step_moves_along_the_exact_plan(check_step, points_batch):
  """SciPy's, which a small epsilon comes to; the gradient holds it."""
  labels, found = points_batch['source']['label'], []

  def term(source, target):
    gaps = source['features'][:, None] - target['features'][None]
    p = jax.nn.softmax(target['logits'])
    cost = 0.4 * jnp.sum(gaps**2, 2) - jnp.log(p)[:, labels].T
    found.append(optimize.linear_sum_assignment(jax.lax.stop_gradient(cost)))
    return 0.5 * jnp.mean(cost[found[0]])

  def build(model, optimizer):
    return deepjdot.method(
      model, optimizer, strength=0.5, alpha=0.4, epsilon=1e-3, iterations=20_000
    )

  check_step(build, term, rtol=1e-4)  # how near epsilon comes
  assert not np.array_equal(*found[0])
