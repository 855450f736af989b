"""A small network on the features of a frozen one, for methods that train features."""

import flax.linen as nn
import jax


class Bottleneck(nn.Module):
  """Maps features (N, D) to fewer, normalised ones, then to logits.

  In place of a network of images it makes a method of adaptation, or of fine-tuning, a
  matter of seconds. Outputs are `{'features', 'logits'}`.

  Attributes:
    head: `(outputs, train) -> logits`, such as `models.Linear(num_classes)`.
    width: of the new features.
  """

  head: nn.Module
  width: int = 256

  def setup(self):
    self.backbone = _Layer(self.width)

  def __call__(self, features: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    outputs = self.embed(features, train=train)
    return {**outputs, 'logits': self.head(outputs, train=train)}

  def embed(self, features: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """As `__call__`, but without the head and its logits."""
    return {'features': self.backbone(features, train=train)}


class _Layer(nn.Module):
  """A dense layer, batch norm, ReLU, as the published libraries' bottlenecks.

  The norm comes after: before the layer it would blow up the features that the source
  hardly has and the target has.
  """

  width: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(self.width, use_bias=False, name='dense')(x)
    return nn.relu(nn.BatchNorm(not train, momentum=0.9, name='norm')(x))
