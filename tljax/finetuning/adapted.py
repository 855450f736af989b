"""A frozen network with small parameters of its own at its layers: what LoRA, (IA)^3,
SSF and adapters share. Each says what a layer gets and how it is called.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import optax

from tljax.errors import InputError
from tljax.finetuning import held, labels, plain
from tljax.finetuning.wrapped import WrappedModel
from tljax.losses import Loss
from tljax.method import Method, Params, Variables


class Layer(NamedTuple):
  """A layer of the network.

  Attributes:
    module: its attributes; it cannot be called.
    params: shapes of its parameters.
    outputs: shape of what it returns.
  """

  module: nn.Module
  params: Params
  outputs: jax.ShapeDtypeStruct


class Adapter(NamedTuple):
  """A way to adapt layers.

  Attributes:
    part: of the parameters, where they are by the layer's path, with '|' between the
      names.
    layers: what it is for, in words.
    draw: `(key, layer) -> parameters`, with which the layer is what it was; None for
      a layer that it is not for.
    call: `(parameters, module, layer, *inputs) -> outputs`, where `layer(*inputs)` is
      what the module does by itself.
  """

  part: str
  layers: str
  draw: Callable[[jax.Array, Layer], Params | None]
  call: Callable[..., jax.Array]


def adapt(
  model,
  optimizer: optax.GradientTransformation,
  adapter: Adapter,
  pattern: str,
  loss: Loss | None,
) -> Method:
  """Builds a method that trains the adapters and the head of a frozen backbone.

  The backbone runs in evaluation mode. A step takes `{'image', 'label'}`.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves the adapters and the head.
    adapter: of layers.
    pattern: regular expression of their paths, such as 'backbone/.*/qkv'.
    loss: see `plain.method`.
  """
  adapted = AdaptedModel(model, adapter, pattern)
  return plain.method(*labels.freeze(adapted, optimizer, 'backbone/.*'), loss=loss)


@dataclasses.dataclass(frozen=True)
class AdaptedModel(WrappedModel):
  """A model with adapters at the layers whose paths match the pattern."""

  adapter: Adapter
  pattern: str

  def init(self, key: jax.Array, *args, **kwargs) -> Variables:
    """As the model's, with the adapters' part.

    Raises:
      InputError: the pattern matches no layer that can be adapted.
    """
    found = {}

    def record(next_call, args, kwargs, context):
      outputs, module = next_call(*args, **kwargs), context.module
      name = '/'.join(module.path)
      if context.method_name == '__call__' and re.fullmatch(self.pattern, name):
        params = module.variables.get('params', {})
        # Shapes, as with remat the arrays are of no use outside the layer.
        found[name] = Layer(module, *jax.eval_shape(lambda: (params, outputs)))
      return outputs

    with nn.intercept_methods(record):
      variables = dict(super().init(key, *args, **kwargs))
    adapters = {
      name.replace('/', '|'): self.adapter.draw(jax.random.fold_in(key, i), found[name])
      for i, name in enumerate(sorted(found))
    }
    adapters = {name: params for name, params in adapters.items() if params is not None}
    if not adapters:
      raise InputError(
        f'the pattern {self.pattern!r} matches no {self.adapter.layers}; mend it'
      )
    variables['params'] = {**variables['params'], self.adapter.part: adapters}
    return variables

  def apply(self, variables, *args, **kwargs):
    """As the model's, with the layers adapted."""
    params = dict(variables['params'])
    adapters = params.pop(self.adapter.part)

    def intercept(next_call, args, kwargs, context):
      adapter = adapters.get('|'.join(context.module.path))
      if adapter is None or context.method_name != '__call__':
        return next_call(*args, **kwargs)
      return self.adapter.call(adapter, context.module, next_call, *args, **kwargs)

    with nn.intercept_methods(intercept):
      return super().apply({**variables, 'params': params}, *args, **kwargs)


def merge_layers(
  variables: Variables, part: str, merge: Callable[[Params, Params], Params]
) -> Variables:
  """Returns the model's variables with the adapters merged into their layers.

  Args:
    variables: of a state of the method.
    part: the adapters', which is left out.
    merge: `(adapter, the layer's parameters) -> parameters`.
  """
  params = dict(held.release(variables['params']))
  adapters = params.pop(part)

  def rebuild(tree, path):
    if path in adapters:
      return merge(adapters[path], tree)
    if not isinstance(tree, dict):
      return tree
    return {k: rebuild(v, f'{path}|{k}' if path else k) for k, v in tree.items()}

  return {**variables, 'params': rebuild(params, '')}


def channels(vector: jax.Array, like: jax.Array) -> jax.Array:
  """Shapes (C,) for broadcasting over an array (..., C), and casts it likewise."""
  return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def can_multiply(module: nn.Module) -> bool:
  """Whether it is a dense layer or an ungrouped convolution."""
  if isinstance(module, nn.Conv):
    return module.feature_group_count == 1
  return isinstance(module, nn.Dense)
