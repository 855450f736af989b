import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import losses
from tljax.adaptation import mdd
from tljax.finetuning import labels
from tljax.models.base import Linear
from tljax.models.heads import Hidden


def slow(source, source_adversary, target, target_adversary, margin):
  def chosen(mains, adversaries):
    odds = np.exp(adversaries)
    return [row[np.argmax(z)] / sum(row) for z, row in zip(mains, odds, strict=True)]

  agree = np.mean(np.log(chosen(source, source_adversary)))
  differ = np.mean(np.log(1 - np.array(chosen(target, target_adversary))))
  return margin * agree + differ


@pytest.mark.parametrize('margin', [4.0, 1.0])
def test_margin_disparity(check_slow, margin):
  rng = np.random.default_rng(0)
  check_slow(
    lambda *logits: mdd.margin_disparity(*logits, margin),
    lambda *logits: slow(*logits, margin),
    *(rng.normal(size=(n, 3)) * 2 for n in (5, 5, 4, 4)),
  )


def test_the_published_loss(check_reference):
  """The library adds 1e-6 in the logarithm of the target's term."""

  def loss(*logits):
    shares = jax.nn.softmax(logits[3])
    rest = 1 - shares[np.arange(24), jnp.argmax(logits[2], -1)]
    addition = jnp.mean(jnp.log(rest + 1e-6) - jnp.log(rest))
    return mdd.margin_disparity(*logits) + addition

  inputs = ['logits_s', 'logits_s2', 'logits_t', 'logits_t2']
  check_reference('mdd_margin4', loss, inputs)


def test_a_certain_adversary_is_finite():
  certain = jnp.array([[300.0, 0, 0]])
  value, grads = jax.value_and_grad(mdd.margin_disparity, (1, 3))(
    certain, certain, certain, certain
  )
  np.testing.assert_allclose(value, np.log(2) - 300, rtol=1e-6)
  np.testing.assert_allclose(grads[1], [[-1, 0.5, 0.5]], atol=1e-6)
  assert np.all(np.isfinite(grads[0]))


@pytest.mark.parametrize('strength', [0.0, 0.4])
def test_one_step_is_the_two_optimisers_min_max(points, points_batch, strength):
  """The features descend task + strength x disparity, the adversary - disparity."""
  rate, adversary = 0.1, Linear(3)
  method = mdd.method(
    points, optax.sgd(rate), strength=strength, margin=2.0, adversary=adversary
  )
  state = method.init(jax.random.key(0), None, points_batch)
  mine = {k: v for k, v in state.params.items() if k != 'adversary'}
  source, target = points_batch['source'], points_batch['target']

  def disparity(mine, theirs):
    logits = []
    for domain in (source, target):
      outputs = points.apply({'params': mine}, domain['image'])
      logits += [outputs['logits'], adversary.apply({'params': theirs}, outputs)]
    return mdd.margin_disparity(*logits, 2.0)

  def model_loss(mine, theirs):
    logits = points.apply({'params': mine}, source['image'])['logits']
    task = losses.cross_entropy(logits, source['label'])
    return task + strength * disparity(mine, theirs)

  theirs = state.params['adversary']
  descents = {
    **jax.grad(model_loss)(mine, theirs),
    'adversary': jax.tree.map(jnp.negative, jax.grad(disparity, 1)(mine, theirs)),
  }
  wanted = jax.tree.map(lambda p, g: p - rate * g, state.params, descents)
  after, _ = method.step(state, points_batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-6)


def test_defaults_are_the_papers(model, family_batches):
  """A head like the model's; eta rises to 0.1."""
  batch = family_batches['adaptation'](0)
  method = mdd.method(model, optax.sgd(0.1))
  state = method.init(jax.random.key(0), None, batch).replace(step=jnp.int32(700))
  chex.assert_trees_all_equal_shapes(state.params['adversary'], state.params['head'])
  _, metrics = jax.jit(method.step)(state, batch)
  expected = 0.1 * (2 / (1 + np.exp(-0.7)) - 1)
  np.testing.assert_allclose(metrics['strength'], expected, rtol=1e-5)


def test_it_takes_a_frozen_model(model, family_batches):
  frozen = labels.freeze(model, optax.sgd(0.1), 'backbone/.*')
  method = mdd.method(*frozen)
  state = method.init(jax.random.key(0), None, family_batches['adaptation'](0))
  assert 'adversary' in state.params


def test_the_adversarys_dropout_is_drawn_anew_each_step(points, points_batch):
  """With a rate of one it gives its bias, whatever it is shown: the disparity of an
  adversary that guesses; with none in between, what it always is.
  """
  losses = {}
  for rate in (0.0, 0.5, 1.0):
    method = mdd.method(
      points, optax.sgd(0.0), strength=1.0, adversary=Hidden(3, (), (rate,))
    )
    state = method.init(jax.random.key(0), None, points_batch)
    steps = [state.replace(step=jnp.int32(step)) for step in (0, 1)]
    found = [method.step(one, points_batch)[1]['alignment_loss'] for one in steps]
    losses[rate] = np.float64(found)
  assert losses[0.0][0] == losses[0.0][1]
  assert losses[0.5][0] != losses[0.5][1]
  np.testing.assert_allclose(losses[1.0], 4 * np.log(3) - np.log(2 / 3), rtol=1e-5)
