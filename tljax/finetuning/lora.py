"""LoRA: low-rank adaptation of a frozen backbone (Hu et al., 2022)."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError
from tljax.finetuning import labels, plain
from tljax.finetuning.wrapped import WrappedModel
from tljax.method import Method, Variables


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  rank: int = 8,
  pattern: str = 'backbone/.*kernel',
) -> Method:
  """Trains the head and, beside each kernel W of the frozen backbone, a product AB.

  A layer computes xW + (xA)B (equation 3). B starts at zero, so the network starts as
  it was. The paper's scale alpha / r is 1: it is another learning rate. The frozen
  backbone runs in evaluation mode. `merge` makes an ordinary model's variables of the
  state's.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves A, B and the head.
    rank: r, the columns of A.
    pattern: regular expression of the paths of the kernels; those of dense layers and
      ungrouped convolutions that match are adapted.
  """
  adapted = AdaptedModel(model, rank, pattern)
  return plain.method(*labels.freeze(adapted, optimizer, 'backbone/.*'))


def merge(variables: Variables) -> Variables:
  """Returns the model's variables with each AB added to its kernel, and no 'lora'.

  Args:
    variables: of a state of the method, `state.variables`.
  """
  params = dict(variables['params'])
  adapters = params.pop('lora')

  def add(path, leaf):
    name = '|'.join(key.key for key in path)
    if name not in adapters:
      return leaf
    return leaf + jnp.matmul(adapters[name]['a'], adapters[name]['b'])

  return {**variables, 'params': jax.tree_util.tree_map_with_path(add, params)}


@dataclasses.dataclass(frozen=True)
class AdaptedModel(WrappedModel):
  """A model with low-rank branches, whose parameters are in the part 'lora'.

  It holds {'a': (..., in, r), 'b': (r, out)} by the kernel's path, with '|' between
  the names. Of a convolution, A is one of the same window to r channels, B is 1x1.
  """

  rank: int
  pattern: str

  def init(self, key: jax.Array, *args, **kwargs) -> Variables:
    """As the model's, with A drawn so that xA has the variance of x, and B zero.

    Raises:
      InputError: the pattern matches no kernel that can be adapted.
    """
    found = set()

    def record(next_call, args, kwargs, context):
      if context.method_name == '__call__' and _can_adapt(context.module):
        found.add('|'.join((*context.module.path, 'kernel')))
      return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
      variables = dict(self.model.init(key, *args, **kwargs))
    matched = [
      n for n in sorted(found) if re.fullmatch(self.pattern, n.replace('|', '/'))
    ]
    if not matched:
      raise InputError(
        f'the pattern {self.pattern!r} matches no kernel of a dense layer or an '
        'ungrouped convolution; mend it'
      )
    adapters = {}
    for i, name in enumerate(matched):
      kernel = variables['params']
      for part in name.split('|'):
        kernel = kernel[part]
      draw = nn.initializers.lecun_normal()
      shape = (*kernel.shape[:-1], self.rank)
      adapters[name] = {
        'a': draw(jax.random.fold_in(key, i), shape),
        'b': jnp.zeros((self.rank, kernel.shape[-1])),
      }
    variables['params'] = {**variables['params'], 'lora': adapters}
    return variables

  def apply(self, variables, *args, **kwargs):
    """As the model's, with the branches added."""
    params = dict(variables['params'])
    branches = _branches(params.pop('lora'), self.rank)
    with nn.intercept_methods(branches):
      return self.model.apply({**variables, 'params': params}, *args, **kwargs)


def _can_adapt(module):
  if isinstance(module, nn.Conv):
    return module.feature_group_count == 1
  return isinstance(module, nn.Dense)


def _branches(adapters, rank):
  """A linen interceptor that adds (xA)B to the outputs of adapted layers."""

  def intercept(next_call, args, kwargs, context):
    module, outputs = context.module, next_call(*args, **kwargs)
    adapter = adapters.get('|'.join((*module.path, 'kernel')))
    if adapter is None or context.method_name != '__call__':
      return outputs
    down = module.clone(parent=None, name=None, features=rank, use_bias=False)
    low = down.apply({'params': {'kernel': adapter['a']}}, *args, **kwargs)
    return outputs + jnp.matmul(low, adapter['b'].astype(low.dtype))

  return intercept
