"""Group distributionally robust optimisation, GroupDRO (Sagawa et al., 2020)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.sources import outputs_by_domain
from tljax.losses import Loss
from tljax.method import Method, gradient_step, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  rate: float = 0.01,
  domains: int = 1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Minimises the source domains' risks by weights that grow where they are large.

  (Algorithm 1, with domains for groups.) The target is not looked at. `memory` has the
  weights q (domains,), which begin alike.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    rate: eta_q, of the weights.
    domains: of the source.
    task_loss: see `align`.
  """

  def init(key, variables, batch):
    state = new_state(key, model, optimizer, batch['source']['image'], variables)
    return state.replace(memory=jnp.full(domains, 1 / domains, jnp.float32))

  def loss_fn(params, state, batch, rng):
    outputs, model_state = outputs_by_domain(
      model, params, state, batch['source'], rng, domains, task_loss
    )
    risks = outputs['risk']
    weights = reweigh(state.memory, risks, rate)
    metrics = {'task_loss': jnp.mean(risks), 'weights': weights}
    return jnp.sum(weights * risks), (model_state, metrics)

  learn = gradient_step(loss_fn, optimizer)

  def step(state, batch):
    state, metrics = learn(state, batch)
    weights = metrics.pop('weights')
    metrics['largest_weight'] = jnp.max(weights)
    return state.replace(memory=weights), metrics

  return Method(init, step, predict_with(model))


def reweigh(weights: jax.Array, risks: jax.Array, rate: float) -> jax.Array:
  """Weights (K,) times exp(rate x risks), summing to 1; constants to the gradient."""
  return jax.nn.softmax(jnp.log(weights) + rate * jax.lax.stop_gradient(risks))
