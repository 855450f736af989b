import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from tljax.measures import transport

RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.normal(size=(5, 3)), RNG.normal(0.5, 2, size=(4, 3))
COST = np.array([[np.sum((x - y) ** 2) for y in TARGET] for x in SOURCE])


def slow_plan(cost, epsilon, rounds=3000):
  """Sinkhorn's scaling itself."""
  kernel = np.exp(-cost / epsilon)
  n, m = cost.shape
  v = np.ones(m)
  for _ in range(rounds):
    u = 1 / n / (kernel @ v)
    v = 1 / m / (kernel.T @ u)
  return u[:, None] * kernel * v[None]


def slow_cost(source, target, epsilon):
  cost = np.array([[np.sum((x - y) ** 2) for y in target] for x in source])
  p = slow_plan(cost, epsilon)
  return np.sum(p * cost) + epsilon * np.sum(p * np.log(p * p.size))


def test_squared_distances():
  got = transport.squared_distances(jnp.float32(SOURCE), jnp.float32(TARGET))
  np.testing.assert_allclose(got, COST, rtol=1e-5)


@pytest.mark.parametrize('epsilon', [1.0, 10.0])
def test_plan(epsilon):
  with jax.enable_x64(True):
    got = transport.plan(jnp.asarray(COST), epsilon, iterations=1000)
  np.testing.assert_allclose(got, slow_plan(COST, epsilon), rtol=1e-8)


def test_a_small_epsilon_is_the_linear_program():
  """Whose plan SciPy finds exactly."""
  n, m = COST.shape
  rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
  exact = optimize.linprog(
    COST.ravel(),
    A_eq=np.concatenate([rows, columns]),
    b_eq=np.repeat([1 / n, 1 / m], [n, m]),
  ).x.reshape(n, m)
  with jax.enable_x64(True):
    got = transport.plan(jnp.asarray(COST), 0.02, iterations=20_000)
  np.testing.assert_allclose(got, exact, atol=1e-4)


def test_of_as_many_points_it_is_an_assignment():
  """In float32, where the scaling itself would underflow."""
  cost = COST[:4]
  assert not np.any(np.exp(np.float32(-cost[0] / 0.01)))
  rows, columns = optimize.linear_sum_assignment(cost)
  got = transport.plan(jnp.float32(cost), 0.01, iterations=2000)
  wanted = np.zeros((4, 4))
  wanted[rows, columns] = 1 / 4
  np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_regularised_cost(check_slow):
  """Its gradient holds the plan, and yet is the whole's."""
  check_slow(
    lambda x, y: transport.regularised_cost(x, y, 2.0, iterations=2000),
    lambda x, y: slow_cost(x, y, 2.0),
    SOURCE[:3],
    TARGET[:2],
  )


def test_sinkhorn_divergence(check_slow):
  def slow(x, y):
    own = slow_cost(x, x, 3.0) + slow_cost(y, y, 3.0)
    return slow_cost(x, y, 3.0) - own / 2

  check_slow(
    lambda x, y: transport.sinkhorn_divergence(x, y, 3.0, iterations=2000),
    slow,
    SOURCE[:3],
    TARGET[:2],
  )


def test_the_divergence_of_a_set_from_itself_is_zero():
  with jax.enable_x64(True):
    x = jnp.asarray(SOURCE)
    value, grad = jax.value_and_grad(transport.sinkhorn_divergence)(x, x, 3.0)
  np.testing.assert_allclose(value, 0, atol=1e-9)
  np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_of_a_shift_it_is_its_square():
  """Whatever the epsilon, small or large."""
  x, move = jnp.float32(SOURCE), jnp.array([[1.0, -2.0, 0.5]])
  for epsilon in (1.0, 100.0):
    got = transport.sinkhorn_divergence(x, x + move, epsilon, iterations=1000)
    np.testing.assert_allclose(got, 5.25, rtol=1e-3)


def test_sliced_wasserstein():
  """Along each line the best of all assignments, which SciPy finds."""
  key, source = jax.random.key(0), SOURCE[:4]
  got = transport.sliced_wasserstein(
    jnp.float32(source), jnp.float32(TARGET), key, directions=7
  )
  lines = np.asarray(jax.random.normal(key, (3, 7)), np.float64)
  total = 0.0
  for line in lines.T / np.linalg.norm(lines, axis=0)[:, None]:
    cost = (source @ line)[:, None] - (TARGET @ line)[None]
    rows, columns = optimize.linear_sum_assignment(cost**2)
    total += np.mean(cost[rows, columns] ** 2)
  np.testing.assert_allclose(got, total / 7, rtol=1e-5)


def test_sliced_wasserstein_of_a_shift():
  """A third of its square on average, in three dimensions."""
  x = jnp.float32(SOURCE)
  got = transport.sliced_wasserstein(
    x, x + jnp.array([[2.0, 0, 1]]), jax.random.key(1), directions=20_000
  )
  np.testing.assert_allclose(got, 5 / 3, rtol=0.03)
  assert transport.sliced_wasserstein(x, x, jax.random.key(1)) == 0
