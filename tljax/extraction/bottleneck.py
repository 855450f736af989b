"""A small network on the features of a frozen one, for methods that train features."""

import flax.linen as nn
import jax


class Bottleneck(nn.Module):
  """Standardises features (N, D), maps them to fewer, then to logits.

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
    outputs = {'features': self.backbone(features, train=train)}
    return {**outputs, 'logits': self.head(outputs, train=train)}


class _Layer(nn.Module):
  """Batch norm without parameters, a dense layer, ReLU."""

  width: int

  @nn.compact
  def __call__(self, x, train=False):
    norm = nn.BatchNorm(momentum=0.9, use_scale=False, use_bias=False, name='norm')
    x = norm(x, use_running_average=not train)
    return nn.relu(nn.Dense(self.width, name='dense')(x))
