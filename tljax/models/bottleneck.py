"""A narrow layer before the head: where methods of adaptation align the domains."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.models.products import Dense

Norm = Literal['layer', 'batch', 'none']
Activation = Literal['relu', 'tanh', 'none']
_ACTIVATIONS = {'relu': nn.relu, 'tanh': jnp.tanh, 'none': lambda x: x}


def activation_after(norm: Norm) -> Activation:
  """The activation of a bottleneck that is not told one."""
  return 'none' if norm == 'none' else 'relu'


class Bottleneck(nn.Module):
  """A dense layer, a norm, an activation, dropout: features (N, D) to fewer.

  The norm comes after: before the layer it would blow up the features that the source
  hardly has and the target has.

  Attributes:
    width: of the new features.
    norm: by layer norm a method of strength 0 is the source alone. The published
      libraries' batch norm, which sees both domains as one batch, adapts by itself, for
      better or worse; AdaBN and Tent want it.
    activation: None is ReLU where there is a norm and nothing where there is none, as
      in CDAN's, PADA's and MME's papers.
    dropout: its rate, in training.
    keeps_length: dropout leaves a row as long as it was, its mean square and not its
      mean: AFN's, whose loss is of lengths.
  """

  width: int = 256
  norm: Norm = 'layer'
  activation: Activation | None = None
  dropout: float = 0.0
  keeps_length: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    x = Dense(self.width, use_bias=self.norm == 'none', name='dense')(x)
    if self.norm == 'layer':
      x = nn.LayerNorm(name='norm')(x)
    elif self.norm == 'batch':
      x = nn.BatchNorm(not train, momentum=0.9, name='norm')(x)
    x = _ACTIVATIONS[self.activation or activation_after(self.norm)](x)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    return x * math.sqrt(1 - self.dropout) if train and self.keeps_length else x


class OnFeatures(nn.Module):
  """A bottleneck and a head on the features of a frozen network.

  In place of a network of images it makes a method of adaptation, or a fine-tuning of
  all parameters, a matter of seconds. What freezes the backbone would hold the
  bottleneck as it was drawn. Outputs are `{'features', 'logits'}`.

  Attributes:
    head: `(outputs, train) -> logits`, such as `models.Linear(num_classes)`.
    backbone: all that lies below it.
  """

  head: nn.Module
  backbone: Bottleneck = Bottleneck()

  def __call__(self, features: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    outputs = self.embed(features, train=train)
    return {**outputs, 'logits': self.head(outputs, train=train)}

  def embed(self, features: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """As `__call__`, but without the head and its logits."""
    return {'features': self.backbone(features, train=train)}
