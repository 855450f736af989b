"""No method of adaptation looks at the target's labels, where a batch has them."""

import jax
import optax
import pytest
from jax.interpreters import partial_eval

from tljax import adaptation
from tljax.method import path_name


@pytest.mark.parametrize('name', [*adaptation.names(), 'cdan+mcc+sdat'])
def test_nothing_that_a_step_returns_depends_on_them(model, family_batches, name):
  """Nor its first state: programs rid of what results do not need do not read them."""
  batch = family_batches['adaptation'](0)
  batch['target'] = {**batch['target'], 'label': batch['source']['label']}
  method = adaptation.create(name, model, optax.sgd(0.1))
  state = jax.eval_shape(method.init, jax.random.key(0), None, batch)
  assert read(method.step, state, batch) == {'source/label', 'not target/label'}
  started = read(lambda batch: method.init(jax.random.key(0), None, batch), batch)
  assert 'not target/label' in started


def read(function, *arguments):
  """Returns which labels of the batch, its last argument, what it returns needs."""
  program = jax.make_jaxpr(function)(*arguments).jaxpr
  _, is_read = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
  leaves = jax.tree_util.tree_flatten_with_path(arguments)[0]
  batch = f'{len(arguments) - 1}/'
  names = [path_name(path).removeprefix(batch) for path, _ in leaves]
  return {
    f'{"" if needed else "not "}{name}'
    for name, needed in zip(names, is_read, strict=True)
    if name in ('source/label', 'target/label')
  }
