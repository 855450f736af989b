"""Twenty steps of the adversarial and moment methods, in float64, beside PyTorch.

Each is the paper's update written out: the two sides of a game descend their own
losses, with no gradient reversal, each by an optimiser of its own. Parameters and
momenta must agree at the end.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.adaptation import adversarial, cdan, dan, dann, jan, mcd, mdd
from tljax.models.base import Linear

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch

STEPS, RATE, MOMENTUM, DECAY = 20, 0.05, 0.9, 1e-2
HEADS = ('head', 'second_head')
DISCRIMINATOR = adversarial.Discriminator(5)
SECOND = Linear(3)


def lam(step):
  """DANN's, equation of section 5.2.2."""
  return 2 / (1 + math.exp(-10 * step / STEPS)) - 1


def rate(step):
  return RATE / (1 + 10 * step / STEPS) ** 0.75


def dense(params, x):
  return x @ params['kernel'] + params['bias']


def network(params, x):
  features = torch.tanh(dense(params['hidden'], x))
  return features, dense(params['head'], features)


def domain_loss(params, source, target):
  """Binary cross-entropy, the means over the domains halved."""
  value = 0.0
  for x, label in ((source, 1.0), (target, 0.0)):
    for i in range(2):
      x = torch.relu(dense(params['discriminator'][f'Dense_{i}'], x))
    logits = dense(params['discriminator']['Dense_2'], x)[:, 0]
    labels = torch.full_like(logits, label)
    value = value + torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
  return value / 2


def cross_entropy(logits, labels):
  return torch.nn.functional.cross_entropy(logits, labels)


def adversarial_games(params, batch, step, joint):
  """The model against the discriminator of `joint(features, logits)`."""
  (source, labels), target = batch
  outputs = [network(params, x) for x in (source, target)]
  gap = domain_loss(params, *(joint(*pair) for pair in outputs))
  task = cross_entropy(outputs[0][1], labels)
  return [[(('discriminator',), gap), (('hidden', 'head'), task - lam(step) * gap)]]


def dann_games(params, batch, step):
  return adversarial_games(params, batch, step, lambda features, logits: features)


def cdan_games(params, batch, step):
  def joint(features, logits):
    predictions = torch.softmax(logits, 1).detach()
    rows = [
      torch.outer(g, f).reshape(-1) for g, f in zip(predictions, features, strict=True)
    ]
    return torch.stack(rows)

  return adversarial_games(params, batch, step, joint)


def squared_distances(x, y):
  return ((x[:, None] - y[None]) ** 2).sum(-1)


def adaptive(x, points):
  """Five Gaussians by the mean squared distance of all pairs of points."""
  mean = squared_distances(points, points).mean().detach()
  return sum(torch.exp(-x / (2 * 2.0**k * mean)) for k in range(-3, 2))


def mmd(pairs, kernels):
  """Without bias: a point is not compared with itself."""

  def similarity(i, j):
    product = 1.0
    for pair, kernel in zip(pairs, kernels, strict=True):
      product = product * kernel(squared_distances(pair[i], pair[j]), torch.cat(pair))
    return product

  def between(matrix):
    count = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1))

  cross = similarity(0, 1).mean()
  return between(similarity(0, 0)) + between(similarity(1, 1)) - 2 * cross


def moment_games(params, batch, step, distance):
  (source, labels), target = batch
  outputs = [network(params, x) for x in (source, target)]
  task = cross_entropy(outputs[0][1], labels)
  return [[(('hidden', 'head'), task + 0.7 * distance(*zip(*outputs, strict=True)))]]


def dan_games(params, batch, step):
  def distance(features, logits):
    return mmd([features], [adaptive])

  return moment_games(params, batch, step, distance)


def jan_games(params, batch, step):
  def fixed(x, points):
    return torch.exp(-x / (2 * 0.92**2))

  def distance(features, logits):
    predictions = tuple(torch.softmax(z, 1) for z in logits)
    return mmd([features, predictions], [adaptive, fixed])

  return moment_games(params, batch, step, distance)


def mdd_games(params, batch, step):
  (source, labels), target = batch
  pairs, terms = [network(params, x) for x in (source, target)], []
  for features, logits in pairs:
    opposed = torch.softmax(dense(params['adversary']['classifier'], features), 1)
    terms.append(opposed[torch.arange(len(logits)), logits.argmax(1)])
  disparity = 4 * torch.log(terms[0]).mean() + torch.log(1 - terms[1]).mean()
  task = cross_entropy(pairs[0][1], labels)
  main = task + 0.1 * lam(step) * disparity
  return [[(('adversary',), -disparity), (('hidden', 'head'), main)]]


def mcd_games(params, batch, step):
  """Three games in turn: all, the heads, then twice the features."""
  (source, labels), target = batch

  def both(x):
    features, logits = network(params, x)
    return logits, dense(params['second_head']['classifier'], features)

  def task():
    return sum(cross_entropy(logits, labels) for logits in both(source))

  def gap():
    first, second = (torch.softmax(logits, 1) for logits in both(target))
    return 0.5 * (first - second).abs().mean()

  yield [(HEADS, task()), (('hidden',), task())]
  yield [(HEADS, task() - gap())]
  for _ in range(2):
    yield [(('hidden',), gap())]


RAMP = adversarial.ramp(STEPS)
METHODS = {
  'dann': (
    functools.partial(dann.method, strength=RAMP, discriminator=DISCRIMINATOR),
    dann_games,
  ),
  'cdan': (
    functools.partial(cdan.method, strength=RAMP, discriminator=DISCRIMINATOR),
    cdan_games,
  ),
  'dan': (functools.partial(dan.method, strength=0.7), dan_games),
  'jan': (functools.partial(jan.method, strength=0.7), jan_games),
  'mcd': (
    functools.partial(mcd.method, strength=0.5, generator_steps=2, second_head=SECOND),
    mcd_games,
  ),
  'mdd': (
    functools.partial(
      mdd.method, strength=adversarial.ramp(STEPS, peak=0.1), adversary=SECOND
    ),
    mdd_games,
  ),
}


def leaves(tree, at=''):
  """The tensors of nested dicts by path."""
  if not isinstance(tree, dict):
    return {at[1:]: tree}
  return {k: v for name in tree for k, v in leaves(tree[name], f'{at}/{name}').items()}


def batch_of(step):
  """Eight labelled points and seven others, new ones each step."""
  rng = np.random.default_rng(step)
  source, target = rng.normal(size=(8, 2)), rng.normal(0.5, 2, (7, 2))
  return source, rng.integers(0, 3, 8), target


def transcribed(games, params):
  """Parameters and momenta by path after twenty steps of torch's SGD."""
  params = jax.tree.map(
    lambda x: torch.tensor(np.asarray(x), requires_grad=True), params
  )
  optimizers = {}
  for step in range(STEPS):
    source, labels, target = map(torch.tensor, batch_of(step))
    for game in games(params, ((source, labels), target), step):
      moved = []
      for parts, loss in game:
        mine = [x for part in parts for x in leaves(params[part]).values()]
        if parts not in optimizers:
          optimizers[parts] = torch.optim.SGD(
            mine, lr=1.0, momentum=MOMENTUM, weight_decay=DECAY
          )
        grads = torch.autograd.grad(loss, mine, retain_graph=True)
        moved.append((optimizers[parts], mine, grads))
      for optimizer, mine, grads in moved:
        for x, grad in zip(mine, grads, strict=True):
          x.grad = grad
        optimizer.param_groups[0]['lr'] = rate(step)
        optimizer.step()
  states = {
    x: s for optimizer in optimizers.values() for x, s in optimizer.state.items()
  }
  found = leaves(params)
  return (
    {name: x.detach().numpy() for name, x in found.items()},
    {name: states[x]['momentum_buffer'].numpy() for name, x in found.items()},
  )


@pytest.mark.parametrize('name', METHODS)
def test_twenty_steps(points, name):
  build, games = METHODS[name]
  optimizer = optax.chain(
    optax.add_decayed_weights(DECAY), optax.sgd(rate, momentum=MOMENTUM)
  )
  # Schedules are float32 numbers.
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
    method = build(points, optimizer)
    state = method.init(jax.random.key(0), None, as_batch(0))
    parts = state.params, state.opt_state
    params, opt_state = jax.tree.map(
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, parts
    )
    state, first = state.replace(params=params, opt_state=opt_state), leaves(params)
    wanted = transcribed(games, jax.device_get(params))
    step = jax.jit(method.step)
    for i in range(STEPS):
      state, _ = step(state, as_batch(i))
  momenta = optax.tree.get(state.opt_state, 'trace')
  for mine, theirs in zip((state.params, momenta), wanted, strict=True):
    mine = leaves(jax.device_get(mine))
    assert mine.keys() == theirs.keys()
    for path, value in theirs.items():
      np.testing.assert_allclose(mine[path], value, rtol=1e-5, atol=1e-7, err_msg=path)
  for path, value in jax.device_get(first).items():
    assert np.abs(wanted[0][path] - value).max() > 1e-3, path


def as_batch(step):
  source, labels, target = batch_of(step)
  return {
    'source': {'image': jnp.asarray(source), 'label': jnp.asarray(labels, jnp.int32)},
    'target': {'image': jnp.asarray(target)},
  }
