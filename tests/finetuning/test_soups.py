import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.finetuning import plain, soups


def network(*values):
  kernel, mean = values
  return {
    'params': {'head': {'kernel': jnp.float32(kernel)}},
    'batch_stats': {'mean': jnp.float32(mean)},
  }


def test_wise_ft_goes_from_the_start_to_the_end(raw):
  start, tuned = network([1.0, 2.0], 4.0), network([3.0, -2.0], 0.0)
  assert raw(soups.wise_ft(start, tuned, 0.0)) == raw(start)
  assert raw(soups.wise_ft(start, tuned, 1.0)) == raw(tuned)
  assert raw(soups.wise_ft(start, tuned, 0.25)) == raw(network([1.5, 1.0], 3.0))


def test_a_uniform_soup_is_the_mean(raw):
  soup = soups.uniform_soup(
    [network([0.0, 1], 1), network([3, 2], 2), network([0, 6], 6)]
  )
  assert raw(soup) == raw(network([1.0, 3.0], 3.0))


@pytest.mark.parametrize(
  ('values', 'chosen'),
  [
    ([1.0, 3.0, -1.5], [0, 2]),
    ([2.0, -2.0, 0.5], [2]),
    ([0.5, 0.5, 9.0], [0, 1]),
    ([7.0], [0]),
  ],
)
def test_a_greedy_soup_takes_what_does_not_hurt(values, chosen):
  """The nearer to zero, the better."""

  def score(variables):
    return -abs(float(variables['params']['head']['kernel']))

  networks = [network(value, 0.0) for value in values]
  soup, got = soups.greedy_soup(networks, score)
  assert got == chosen
  kernel = float(soup['params']['head']['kernel'])
  np.testing.assert_allclose(kernel, np.mean([values[i] for i in chosen]))
  assert score(soup) >= max(map(score, networks))


def test_a_soup_of_two_runs_is_a_network(model, family_batches):
  stream = family_batches['finetuning']
  start = model.init(jax.random.key(0), stream(0)['image'])
  method = plain.method(model, optax.sgd(0.05))
  tuned = []
  for first in (0, 10):
    state, step = method.init(jax.random.key(first), start, stream(0)), method.step
    for t in range(2):
      state, _ = step(state, stream(first + t))
    tuned.append(state.variables)
  soup, chosen = soups.greedy_soup(tuned, lambda variables: 1.0)
  assert chosen == [0, 1]
  logits = model.apply(soup, stream(0)['image'])['logits']
  assert np.all(np.isfinite(logits)) and logits.shape == (16, 10)
