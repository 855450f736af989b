"""Averages of networks that were fine-tuned from one start, made after training."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from tljax.method import Variables


def wise_ft(start: Variables, tuned: Variables, weight: float = 0.5) -> Variables:
  """Interpolates between two networks: (1 - weight) start + weight tuned.

  WiSE-FT (Wortsman et al., 2022, equation 1): it keeps much of the start's accuracy
  on shifted data. Batch statistics are interpolated too.

  Args:
    start: variables of the network before fine-tuning, such as a linear probe's: they
      must have the tuned head's shape.
    tuned: variables after it.
    weight: alpha, in [0, 1].
  """
  return jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, start, tuned)


def uniform_soup(networks: Sequence[Variables]) -> Variables:
  """Returns the mean of the networks (Wortsman et al., 2022b, section 2)."""
  return jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), 0), *networks)


def greedy_soup(
  networks: Sequence[Variables], score: Callable[[Variables], float]
) -> tuple[Variables, list[int]]:
  """Averages the networks that help (Wortsman et al., 2022b, recipe 1).

  From the best down, each joins where the soup with it scores no less than without;
  so the soup scores no less than the best network.

  Args:
    networks: variables, all fine-tuned from one start.
    score: of variables on held-out data, such as validation accuracy; the higher the
      better. Not on what the soup is judged by in the end.

  Returns:
    The soup, and the positions of its ingredients in the order in which they joined.
  """
  alone = [score(network) for network in networks]
  best, *others = sorted(range(len(networks)), key=lambda i: -alone[i])
  chosen, soup, reached = [best], networks[best], alone[best]
  for i in others:
    tried = uniform_soup([networks[j] for j in (*chosen, i)])
    if (scored := score(tried)) >= reached:
      chosen, soup, reached = [*chosen, i], tried, scored
  return soup, chosen
