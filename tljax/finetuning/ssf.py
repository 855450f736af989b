"""SSF: scaling and shifting the features of a frozen network (Lian et al., 2022)."""

import flax.linen as nn
import jax.numpy as jnp
import optax

from tljax.finetuning import adapted
from tljax.losses import Loss
from tljax.method import Method, Variables

_LAYERS = (nn.Dense, nn.Conv, nn.LayerNorm, nn.BatchNorm, nn.GroupNorm)


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  pattern: str = 'backbone/.*',
  loss: Loss | None = None,
) -> Method:
  """Trains the head and, after each layer of the frozen backbone, y = gamma x + beta.

  A layer without a bias gets no beta, into which it could be merged; the norm that
  follows such a convolution has one. They start as 1 and 0, so the network starts as it
  was. `merge` makes an ordinary model's variables of the state's.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves gamma, beta and the head.
    pattern: regular expression of the paths of layers; the dense ones, convolutions
      and norms that match are adapted.
    loss: see `plain.method`.
  """
  return adapted.adapt(model, optimizer, SCALE_AND_SHIFT, pattern, loss)


def merge(variables: Variables) -> Variables:
  """Returns the model's variables with gamma and beta in its layers, and no 'ssf'.

  Args:
    variables: of a state of the method, `state.variables`.
  """

  def scale(adapter, params):
    merged = {
      name: leaf * adapted.channels(adapter['scale'], leaf)
      for name, leaf in params.items()
    }
    if 'shift' in adapter:
      merged['bias'] += adapter['shift']
    return merged

  return adapted.merge_layers(variables, 'ssf', scale)


def _draw(key, layer):
  del key
  if not isinstance(layer.module, _LAYERS) or not layer.params:
    return None
  width = layer.outputs.shape[-1:]
  shift = {'shift': jnp.zeros(width)} if 'bias' in layer.params else {}
  return {'scale': jnp.ones(width), **shift}


def _call(adapter, module, layer, *args, **kwargs):
  del module
  x = layer(*args, **kwargs)
  x *= adapted.channels(adapter['scale'], x)
  return x + adapted.channels(adapter['shift'], x) if 'shift' in adapter else x


SCALE_AND_SHIFT = adapted.Adapter(
  'ssf', 'dense layer, convolution or norm', _draw, _call
)
