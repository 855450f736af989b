"""(IA)^3: learned rescaling of a frozen network's activations (Liu et al., 2022)."""

import flax.linen as nn
import jax.numpy as jnp
import optax

from tljax.finetuning import adapted
from tljax.losses import Loss
from tljax.method import Method, Variables


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  pattern: str = 'backbone/(?!embed/).*',
  loss: Loss | None = None,
) -> Method:
  """Trains the head and vectors that scale keys, values and hidden activations.

  Of a transformer these are the keys and values of each attention (its layer 'qkv'),
  and what enters the second layer of each perceptron ('fc2'; section 3.3). The paper
  has no convolutions; their outputs are scaled. All vectors start at 1, so the network
  starts as it was. `merge` makes an ordinary model's variables of the state's.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves the vectors and the head.
    pattern: regular expression of the paths of layers; those of these kinds that match
      are adapted.
    loss: see `plain.method`.
  """
  return adapted.adapt(model, optimizer, RESCALING, pattern, loss)


def merge(variables: Variables) -> Variables:
  """Returns the model's variables with the vectors in its layers, and no 'ia3'.

  Args:
    variables: of a state of the method, `state.variables`.
  """

  def scale(adapter, params):
    if 'inputs' in adapter:
      return {**params, 'kernel': params['kernel'] * adapter['inputs'][:, None]}
    vector = _outputs(adapter)
    return {
      name: leaf * adapted.channels(vector, leaf) for name, leaf in params.items()
    }

  return adapted.merge_layers(variables, 'ia3', scale)


def _draw(key, layer):
  del key
  if isinstance(layer.module, nn.Conv):
    return {'outputs': jnp.ones(layer.outputs.shape[-1])}
  if not isinstance(layer.module, nn.Dense):
    return None
  inputs, outputs = layer.params['kernel'].shape
  if layer.module.name == 'fc2':
    return {'inputs': jnp.ones(inputs)}
  if layer.module.name == 'qkv':
    return {'keys': jnp.ones(outputs // 3), 'values': jnp.ones(outputs // 3)}
  return None


def _call(adapter, module, layer, x):
  del module
  if 'inputs' in adapter:
    return layer(x * adapted.channels(adapter['inputs'], x))
  x = layer(x)
  return x * adapted.channels(_outputs(adapter), x)


def _outputs(adapter):
  """What a layer's outputs are scaled by: of 'qkv' the queries by 1."""
  if 'outputs' in adapter:
    return adapter['outputs']
  keys, values = adapter['keys'], adapter['values']
  return jnp.concatenate([jnp.ones_like(keys), keys, values])


RESCALING = adapted.Adapter(
  'ia3', 'convolution and no dense layer qkv or fc2', _draw, _call
)
