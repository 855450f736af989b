"""A linear head on fixed features: the plainest transfer."""

import flax.linen as nn
import numpy as np

from tljax.extraction.head import Head, linear
from tljax.method import Variables
from tljax.models.base import Linear

_EPSILON = 1e-6  # of the variance, as in MAE's code


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


def fold(
  variables: Variables, moments: tuple[np.ndarray, np.ndarray] | None = None
) -> Head:
  """Returns a trained probe as one linear head of features as they are.

  Args:
    variables: the probe's.
    moments: mean and variance (D,) of all training features. By default the running
      ones, of which 0.9^t is still where they started after t steps.
  """
  norm = variables['batch_stats']['norm']
  mean, variance = moments or (norm['mean'], norm['var'])
  classifier = variables['params']['head']['classifier']
  inverse = 1 / np.sqrt(np.float64(variance) + _EPSILON)
  kernel = inverse[:, None] * classifier['kernel']
  return linear(kernel, classifier['bias'] - np.float64(mean) @ kernel)
