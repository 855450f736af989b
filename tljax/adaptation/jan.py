"""Joint adaptation networks (Long et al., 2017)."""

import jax
import optax

from tljax.adaptation.alignment import align
from tljax.measures import shift
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  linear: bool = False,
) -> Method:
  """Brings together the joint distributions of features and predictions.

  Minimises source cross-entropy + strength x `shift.joint_mmd` (equation 12): five
  Gaussians on the features, times one of standard deviation 0.92 on the softmax
  predictions, as the authors have it.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda, a number or a schedule of the step.
    linear: estimate in linear time, as the paper does; it is noisier, and both
      domains' batches must be of one size.
  """
  kernels = [shift.adaptive_gaussians(), shift.gaussian(0.92)]

  def layers(outputs):
    return [outputs['features'], jax.nn.softmax(outputs['logits'])]

  def loss(params, source, target, strength):
    del params
    distance = shift.joint_mmd(layers(source), layers(target), kernels, linear=linear)
    return strength * distance

  return align(model, optimizer, loss, strength=strength)
