"""A linear head on fixed features: the plainest transfer."""

import flax.linen as nn

from tljax.models.base import Linear


class LinearProbe(nn.Module):
  """Maps features (N, D) to `{'features', 'logits'}`.

  Its parameters are `{'head': ...}` as those of a `Classifier` with a `Linear` head,
  so that the two put together are one network again.
  """

  num_classes: int

  def setup(self):
    self.head = Linear(self.num_classes)

  def __call__(self, features, train=False):
    outputs = {'features': features}
    return {**outputs, 'logits': self.head(outputs, train=train)}
