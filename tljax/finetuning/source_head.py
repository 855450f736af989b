"""The source task's classifier beside the target's: what Co-Tuning and LwF share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError
from tljax.method import Outputs, Params

# A module `(outputs, train) -> logits` (N, K_s), and its pretrained parameters.
SourceHead = tuple[Any, Params]


def source_head_of(
  model, given: SourceHead | None
) -> tuple[
  Callable[[jax.Array, Outputs], Params], Callable[[Params, Outputs], jax.Array]
]:
  """Returns what draws the part 'source_head', and its logits.

  Args:
    model: outputs by endpoint; its head is the target's.
    given: by default one like the model's head, drawn anew.

  Returns:
    `init_params` of `new_state`, and `(params, outputs) -> logits` (N, K_s); the head
    runs in evaluation mode. It reads what follows the bottleneck, where there is one;
    the Transfer Learning Library's reads what comes before. The first raises
    InputError where the head keeps more than parameters.
  """
  head, pretrained = given or (model.head, None)

  def init_params(key, outputs):
    beside = sorted({*jax.eval_shape(head.init, key, outputs)} - {'params'})
    if beside:
      raise InputError(
        f'the source classifier keeps {", ".join(beside)} beside its parameters; give '
        'one without batch norm'
      )
    if pretrained is None:
      return {'source_head': head.init(key, optax.tree.zeros_like(outputs))['params']}
    return {'source_head': jax.tree.map(lambda x: jnp.array(x, copy=True), pretrained)}

  def logits(params, outputs):
    return head.apply({'params': params['source_head']}, outputs, train=False)

  return init_params, logits
