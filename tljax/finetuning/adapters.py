"""Adapters: small residual networks in a frozen one (Houlsby et al., 2019; of
convolutional networks Rebuffi et al., 2017).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax.finetuning import adapted
from tljax.losses import Loss
from tljax.method import Method
from tljax.models.products import product


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  width: int = 64,
  pattern: str = 'backbone/[^/]+',
  loss: Loss | None = None,
) -> Method:
  """Trains the head and, after modules of the frozen backbone, x + up(relu(down(x))).

  Of a map these are 1x1 convolutions. The second layer starts at zero, so the network
  starts as it was. The norms stay frozen; Houlsby et al.'s code trains them too.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves the adapters and the head.
    width: channels between the two layers.
    pattern: regular expression of the paths of the modules, whose outputs have the
      channels last. The default has one after each stage, which is a transformer's
      block; 'backbone/.*/(proj|fc2)' are Houlsby et al.'s places, two in each block.
    loss: see `plain.method`.
  """
  return adapted.adapt(model, optimizer, bottleneck(width), pattern, loss)


def bottleneck(width: int) -> adapted.Adapter:
  """Returns the adapter {'down': {'kernel', 'bias'}, 'up': {'kernel', 'bias'}}."""

  def draw(key, layer):
    if not isinstance(layer.outputs, jax.ShapeDtypeStruct):
      return None
    channels = layer.outputs.shape[-1]
    down = nn.initializers.lecun_normal()(key, (channels, width))
    return {
      'down': {'kernel': down, 'bias': jnp.zeros(width)},
      'up': {'kernel': jnp.zeros((width, channels)), 'bias': jnp.zeros(channels)},
    }

  def call(adapter, module, layer, *args, **kwargs):
    del module
    x = layer(*args, **kwargs)
    hidden = nn.relu(_dense(adapter['down'], x))
    return x + _dense(adapter['up'], hidden)

  return adapted.Adapter('adapters', 'module with one output', draw, call)


def _dense(params, x):
  kernel, bias = params['kernel'].astype(x.dtype), params['bias']
  return product(x, kernel) + adapted.channels(bias, x)
