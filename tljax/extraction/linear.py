"""A linear head on fixed features: the plainest transfer."""

import flax.linen as nn
import numpy as np

from tljax.extraction.head import Head, linear
from tljax.method import Variables
from tljax.models.base import Linear

_EPSILON = 1e-5  # of the variance


class LinearProbe(nn.Module):
  """Standardises features (N, D), then maps them linearly: `{'features', 'logits'}`.

  The standardisation is a batch norm without scale and bias, as in MAE's linear
  probes (He et al., 2022, appendix A.1): features of a convolutional network differ
  by orders of magnitude in scale, and one learning rate then suits few of them.
  """

  num_classes: int

  @nn.compact
  def __call__(self, features, train=False):
    norm = nn.BatchNorm(
      momentum=0.9, epsilon=_EPSILON, use_scale=False, use_bias=False, name='norm'
    )
    outputs = {'features': norm(features, use_running_average=not train)}
    logits = Linear(self.num_classes, name='head')(outputs, train=train)
    return {**outputs, 'logits': logits}


def fold(variables: Variables) -> Head:
  """Returns a trained probe as one linear head of features as they are."""
  norm = variables['batch_stats']['norm']
  classifier = variables['params']['head']['classifier']
  inverse = 1 / np.sqrt(np.float64(norm['var']) + _EPSILON)
  kernel = inverse[:, None] * classifier['kernel']
  return linear(kernel, classifier['bias'] - np.float64(norm['mean']) @ kernel)
