"""No method of adaptation looks at the target's labels, where a batch has them."""

import jax
import optax
import pytest
from jax.interpreters import partial_eval

from tljax import adaptation
from tljax.method import path_name


@pytest.mark.parametrize('name', adaptation.names())
def test_nothing_that_a_step_returns_depends_on_them(model, family_batches, name):
  """The step's program, rid of what its results do not need, does not read them."""
  batch = family_batches['adaptation'](0)
  batch['target'] = {**batch['target'], 'label': batch['source']['label']}
  method = adaptation.create(name, model, optax.sgd(0.1))
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  program = jax.make_jaxpr(method.step)(state, batch).jaxpr
  _, read = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
  paths = jax.tree_util.tree_flatten_with_path((state, batch))[0]
  used = {path_name(p): is_read for (p, _), is_read in zip(paths, read, strict=True)}
  assert not used['1/target/label']
  assert used['1/source/label']
