"""Holds the gradient that a step applies to one written out: helpers, not a test."""

import jax
import jax.numpy as jnp
import numpy as np

from tljax.method import path_name


def as_float64(tree):
  """Its float32 leaves as float64, where `jax.enable_x64` allows that."""

  def widen(leaf):
    return jnp.asarray(leaf, jnp.float64) if leaf.dtype == np.float32 else leaf

  return jax.tree.map(widen, tree)


def check_descent(method, state, batch, rate, task, term, rtol=1e-4):
  """Holds a step of SGD to the gradient of `task(params) + term(params)`, in float64.

  Of what the step moved the task's share is taken off, beside which the term may be
  small: what is left must be the term's own gradient, of each tensor within `rtol`.

  Returns:
    The term and the step's metrics.
  """
  value, wanted = jax.value_and_grad(term)(state.params)
  of_task = jax.grad(task)(state.params)
  after, metrics = method.step(state, batch)

  def check(path, before, after, of_task, wanted):
    found = (before - after) / rate - of_task
    assert found.dtype == np.float64
    atol = rtol * np.abs(wanted).max() + 1e-12  # what rounding leaves of a zero
    np.testing.assert_allclose(found, wanted, rtol, atol, err_msg=path_name(path))

  jax.tree_util.tree_map_with_path(check, state.params, after.params, of_task, wanted)
  return value, metrics
