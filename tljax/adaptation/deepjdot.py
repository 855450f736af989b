"""DeepJDOT: joint distribution optimal transport (Damodaran et al., 2018)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.measures import transport
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  alpha: float = 0.01,
  epsilon: float = 0.05,
  iterations: int = 50,
) -> Method:
  """Moves the source's features and labels to the target at the least cost.

  Minimises source cross-entropy + strength x the cost of the transport plan of each
  batch, `joint_cost` with the plan as a constant. The plan is a regularised one,
  computed on the device, where the paper's is exact; the authors' code has labels'
  squared distances in the plan, and cross-entropy in the loss alone.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves the model's parameters.
    strength: lambda_t, a number or a schedule of the step.
    alpha: weight of the features' distance, the labels' being 1; the default is that
      of the authors' demonstration.
    epsilon: of `transport.plan`, times the mean cost.
    iterations: of `transport.plan`.
  """

  def loss(params, source, target, strength):
    del params
    cost = joint_cost(
      source['features'], source['label'], target['features'], target['logits'], alpha
    )
    moved = transport.plan(cost, epsilon * jnp.mean(cost), iterations=iterations)
    return strength * jnp.sum(moved * cost)

  return align(model, optimizer, loss, strength=strength)


def joint_cost(
  source: jax.Array,
  labels: jax.Array,
  target: jax.Array,
  logits: jax.Array,
  alpha: float = 0.01,
) -> jax.Array:
  """alpha x squared distance + the target's cross-entropy to the source's label.

  Args:
    source: (N, D) features.
    labels: (N,) integer, or (N, K) probabilities, of the source.
    target: (M, D) features.
    logits: (M, K) of the target.
    alpha: weight of the distance.

  Returns:
    (N, M).
  """
  truth = losses.probabilities(labels, logits.shape[-1]).astype(logits.dtype)
  unlikely = -truth @ jax.nn.log_softmax(logits).T
  return alpha * transport.squared_distances(source, target) + unlikely
