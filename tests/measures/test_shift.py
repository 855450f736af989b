import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.measures import shift

RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.normal(size=(5, 3)), RNG.normal(0.5, 2, size=(4, 3))
PREDICTIONS = [RNG.dirichlet([1, 1], size=n) for n in (5, 4)]
FEATURES = ['feature_s', 'feature_t']
LOGITS = ['logits_s', 'logits_t']


def joint(source, logits_s, target, logits_t, linear=False):
  return shift.joint_mmd(
    [source, jax.nn.softmax(logits_s)],
    [target, jax.nn.softmax(logits_t)],
    [shift.adaptive_gaussians(), shift.gaussian(0.92)],
    linear=linear,
  )


def spread(source, target):
  points = np.concatenate([source, target])
  return np.mean([np.sum((p - q) ** 2) for p in points for q in points])


def five(scale):
  multiples = [2.0**power for power in range(-3, 2)]
  return lambda x, y: sum(
    np.exp(-np.sum((x - y) ** 2) / (2 * m * scale)) for m in multiples
  )


def slow_mmd(kernel, source, target, linear=False):
  """By loops; the rows are whatever the kernel takes."""
  n, m = len(source), len(target)
  if linear:
    total = 0.0
    for i in range(n):
      s, s2, t, t2 = source[i], source[i - n + 1], target[i], target[i - n + 1]
      total += kernel(s, s2) + kernel(t, t2) - kernel(s, t2) - kernel(s2, t)
    return total / n

  def within(rows):
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
    return np.mean([kernel(rows[i], rows[j]) for i, j in pairs])

  across = sum(kernel(s, t) for s in source for t in target) / (n * m)
  return within(source) + within(target) - 2 * across


@pytest.mark.parametrize('linear', [False, True])
def test_mmd(check_slow, linear):
  source = SOURCE[:4] if linear else SOURCE
  kernel = five(spread(source, TARGET))
  check_slow(
    lambda s, t: shift.mmd(s, t, linear=linear),
    lambda s, t: slow_mmd(kernel, s, t, linear),
    source,
    TARGET,
  )


@pytest.mark.parametrize('linear', [False, True])
def test_joint_mmd(check_slow, linear):
  n = 4 if linear else 5
  features = five(spread(SOURCE[:n], TARGET))

  def kernel(one, other):
    (x, p), (y, q) = one, other
    return features(x, y) * np.exp(-np.sum((p - q) ** 2) / (2 * 0.92**2))

  def slow(s, p, t, q):
    rows = [list(zip(*layers, strict=True)) for layers in ((s, p), (t, q))]
    return slow_mmd(kernel, *rows, linear)

  kernels = [shift.adaptive_gaussians(), shift.gaussian(0.92)]

  def loss(s, p, t, q):
    return shift.joint_mmd([s, p], [t, q], kernels, linear=linear)

  check_slow(loss, slow, SOURCE[:n], PREDICTIONS[0][:n], TARGET, PREDICTIONS[1])


@pytest.mark.parametrize('linear', [False, True])
def test_the_published_mmds(check_reference, linear):
  """The library adds 2 / (N - 1), which moves no gradient."""

  def mmd(source, target):
    return shift.mmd(source, target, linear=linear) + 2 / (len(source) - 1)

  def jmmd(*inputs):
    return joint(*inputs, linear=linear) + 2 / (len(inputs[0]) - 1)

  check_reference(f'mk_mmd_linear={linear}', mmd, FEATURES)
  inputs = ['feature_s', 'logits_s', 'feature_t', 'logits_t']
  check_reference(f'jmmd_linear={linear}', jmmd, inputs)


def test_mmd_is_without_bias():
  """Over all ways to draw two of three points twice, it is the population's."""
  points, others = SOURCE[:3], TARGET[:3]
  kernel = shift.gaussian(1.3)

  def k(x, y):
    return np.exp(-np.sum((x - y) ** 2) / (2 * 1.3**2))

  whole = slow_mmd(k, points, others)
  pairs = [[0, 1], [0, 2], [1, 2]]
  estimates = [
    shift.mmd(jnp.float32(points[a, :]), jnp.float32(others[b, :]), kernel=kernel)
    for a in pairs
    for b in pairs
  ]
  np.testing.assert_allclose(np.mean(estimates), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('linear', [False, True])
def test_mmd_of_one_repeated_point_is_zero_and_so_is_its_gradient(linear):
  x = jnp.full((4, 3), 2.5)
  value, grad = jax.value_and_grad(lambda x: shift.mmd(x, x, linear=linear))(x)
  np.testing.assert_allclose(value, 0, atol=1e-5)
  np.testing.assert_allclose(grad, 0, atol=1e-5)


def test_mmd_in_float32_far_from_the_origin():
  near = shift.mmd(jnp.float32(SOURCE), jnp.float32(TARGET))
  far = shift.mmd(jnp.float32(SOURCE + 100), jnp.float32(TARGET + 100))
  np.testing.assert_allclose(far, near, rtol=1e-3)


def test_coral_and_mean_distance(check_slow):
  def slow(source, target):
    gaps = np.cov(source.T) - np.cov(target.T)
    return sum(gap**2 for gap in gaps.flat) / (4 * 3**2)

  check_slow(shift.coral, slow, SOURCE, TARGET)
  check_slow(
    shift.mean_distance,
    lambda s, t: sum((np.mean(s[:, i]) - np.mean(t[:, i])) ** 2 for i in range(3)),
    SOURCE,
    TARGET,
  )


def test_the_published_coral(check_reference):
  """The library's is four times the paper's, and the means' mean square on top."""

  def loss(source, target):
    means = shift.mean_distance(source, target) / source.shape[-1]
    return 4 * shift.coral(source, target) + means

  check_reference('coral', loss, FEATURES)


@pytest.mark.parametrize(('moments', 'span'), [(5, 1.0), (3, 2.0)])
def test_cmd(check_slow, moments, span):
  def slow(source, target):
    means = source.mean(0), target.mean(0)
    total = np.sqrt(sum((means[0] - means[1]) ** 2)) / span
    for k in range(2, moments + 1):
      a, b = (
        [np.mean([(row[i] - mean[i]) ** k for row in x]) for i in range(3)]
        for x, mean in zip((source, target), means, strict=True)
      )
      total += np.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True))) / span**k
    return total

  check_slow(
    lambda s, t: shift.cmd(s, t, moments=moments, span=span), slow, SOURCE, TARGET
  )


@pytest.mark.parametrize('order', [1, 2, 3])
def test_homm(check_slow, order):
  def moment(x):
    total = 0.0
    for row in x:
      power = np.ones(())
      for _ in range(order):
        power = np.multiply.outer(power, row)
      total += power
    return total / len(x)

  check_slow(
    lambda s, t: shift.homm(s, t, order=order),
    lambda s, t: np.mean((moment(s) - moment(t)) ** 2),
    SOURCE,
    TARGET,
  )


@pytest.mark.parametrize(
  'distance', [shift.coral, shift.cmd, shift.homm, shift.mean_distance]
)
def test_a_domain_is_at_no_distance_from_itself(distance):
  x = jnp.float32(SOURCE)
  value, grad = jax.value_and_grad(distance)(x, x)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(grad, 0, atol=1e-6)


@pytest.mark.parametrize(
  'distance',
  [shift.mmd, shift.coral, shift.cmd, shift.homm, shift.mean_distance],
)
def test_distances_are_symmetric_and_see_a_shift(distance):
  x, y = jnp.float32(SOURCE), jnp.float32(TARGET)
  # Of kernels near 1, in float32, whose sums nearly cancel.
  np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-5, atol=1e-6)
  assert distance(x, x * 3 + 1) > distance(x, x)


def test_moment_distance(check_slow):
  def slow(source, target):
    gaps = [np.mean(source**k, 0) - np.mean(target**k, 0) for k in (1, 2, 3)]
    return sum(np.sqrt(np.sum(gap**2)) for gap in gaps)

  check_slow(lambda s, t: shift.moment_distance(s, t, moments=3), slow, SOURCE, TARGET)
