"""What adversarial methods share: reversal, its schedule, the discriminator."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.models.products import Dense


@jax.custom_vjp
def reverse_gradient(x: jax.Array, strength: jax.Array | float) -> jax.Array:
  """Identity; its gradient is times -strength (Ganin et al., 2016, eq. 14, 15)."""
  del strength
  return x


def _forward(x, strength):
  return x, strength


def _backward(strength, gradient):
  return -jnp.asarray(strength, gradient.dtype) * gradient, None


reverse_gradient.defvjp(_forward, _backward)


def ramp(steps: int, *, gamma: float = 10.0, peak: float = 1.0) -> optax.Schedule:
  """DANN's schedule: peak (2 / (1 + exp(-gamma p)) - 1), p = step / steps.

  It rises from 0 at the first step to nearly `peak` (Ganin et al., 2016,
  section 5.2.2).
  """

  def schedule(step):
    progress = jnp.asarray(step, jnp.float32) / steps
    return peak * (2.0 / (1.0 + jnp.exp(-gamma * progress)) - 1.0)

  return schedule


def oppose_head(model, params, outputs, strength: jax.Array | float = 1.0) -> jax.Array:
  """The head's logits (N, K), whose gradient to the outputs is times -strength.

  So the head descends what the rest of the model ascends. It runs without dropout.
  """
  outputs = jax.tree.map(lambda x: reverse_gradient(x, strength), outputs)
  return model.head.apply({'params': params['head']}, outputs)


class Discriminator(nn.Module):
  """Two hidden ReLU layers and one logit: (N, D) features to (N,) logits.

  Attributes:
    width: of either hidden layer.
    norm: 'batch' is a batch norm before each ReLU, as in Transfer-Learning-Library. It
      is by the batch at hand alone: what is trained and never deployed needs no running
      averages. Of both domains in one pass, as in `discriminate`; by each domain's own
      the two would look alike. Not for a critic that is row by row, as WDGRL's is.
  """

  width: int = 1024
  norm: Literal['none', 'batch'] = 'none'

  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = Dense(self.width, use_bias=self.norm == 'none')(x)
      if self.norm == 'batch':
        x = _BatchNorm()(x)
      x = nn.relu(x)
    return Dense(1)(x)[..., 0]


# By mean and variance over rows; epsilon is PyTorch's.
_BatchNorm = functools.partial(
  nn.LayerNorm,
  epsilon=1e-5,
  reduction_axes=0,
  feature_axes=-1,
  use_fast_variance=False,
)


def discriminate(discriminator, params, *inputs: jax.Array) -> list[jax.Array]:
  """The logits (N,) of each domain's inputs (N, D), in one pass over all."""
  logits = discriminator.apply({'params': params}, jnp.concatenate(inputs))
  return jnp.split(logits, np.cumsum([len(x) for x in inputs])[:-1])


def init_discriminator(discriminator, key: jax.Array, inputs) -> dict:
  """Returns `{'discriminator': params}`; of `inputs` only shape and dtype matter."""
  inputs = optax.tree.zeros_like(inputs)
  return {'discriminator': discriminator.init(key, inputs)['params']}
