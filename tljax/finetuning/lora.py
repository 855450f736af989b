"""LoRA: low-rank adaptation of a frozen backbone (Hu et al., 2022)."""

import flax.linen as nn
import jax.numpy as jnp
import optax

from tljax.finetuning import adapted
from tljax.losses import Loss
from tljax.method import Method, Variables
from tljax.models.products import product


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  rank: int = 8,
  pattern: str = 'backbone/.*',
  loss: Loss | None = None,
) -> Method:
  """Trains the head and, beside each kernel W of the frozen backbone, a product AB.

  A layer computes xW + (xA)B (equation 3). B starts at zero, so the network starts as
  it was. The paper's scale alpha / r is 1: it is another learning rate. `merge` makes
  an ordinary model's variables of the state's.

  Args:
    model: outputs by endpoint, among them 'logits'; parts 'backbone' and 'head'.
    optimizer: moves A, B and the head.
    rank: r, the columns of A.
    pattern: regular expression of the paths of layers, such as 'backbone/.*/qkv'; the
      dense ones and ungrouped convolutions that match are adapted, but not BiT's,
      which standardise their kernels.
    loss: see `plain.method`.
  """
  return adapted.adapt(model, optimizer, low_rank(rank), pattern, loss)


def merge(variables: Variables) -> Variables:
  """Returns the model's variables with each AB added to its kernel, and no 'lora'.

  Args:
    variables: of a state of the method, `state.variables`.
  """

  def add(adapter, params):
    return {**params, 'kernel': params['kernel'] + adapter['a'] @ adapter['b']}

  return adapted.merge_layers(variables, 'lora', add)


def low_rank(rank: int) -> adapted.Adapter:
  """Returns the adapter {'a': (..., in, r), 'b': (r, out)}.

  A is drawn so that xA has the variance of x. Of a convolution, A is one of the same
  window to r channels, B is 1x1.
  """

  def draw(key, layer):
    if not adapted.can_multiply(layer.module):
      return None
    *window, width = layer.params['kernel'].shape
    a = nn.initializers.lecun_normal()(key, (*window, rank))
    return {'a': a, 'b': jnp.zeros((rank, width))}

  def call(adapter, module, layer, *inputs):
    down = module.clone(parent=None, name=None, features=rank, use_bias=False)
    low = down.apply({'params': {'kernel': adapter['a']}}, *inputs)
    return layer(*inputs) + product(low, adapter['b'].astype(low.dtype))

  layers = 'dense layer and no ungrouped convolution'
  return adapted.Adapter('lora', layers, draw, call)
