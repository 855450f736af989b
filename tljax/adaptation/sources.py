"""What methods of several source domains share.

The source's stream then has 'domain' (N,) int32 beside image and label, in [0, domains)
and of every domain alike; without it the source is one domain.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.errors import InputError
from tljax.losses import Loss
from tljax.method import (
  Batch,
  Method,
  Outputs,
  Params,
  TrainState,
  apply_train,
  gradient_step,
  new_state,
  predict_with,
)
from tljax.models.products import wide


def by_domain(tree: Any, domain: jax.Array | None, domains: int) -> Any:
  """Returns arrays (N, ...) as (domains, N / domains, ...), domain by domain.

  Args:
    tree: of arrays.
    domain: (N,) integer, of every domain alike; None where there is one.
    domains: how many there are.

  Raises:
    InputError: N is no multiple of `domains`, or several are not told apart.
  """
  size = len(jax.tree.leaves(tree)[0])
  if size % domains or (domains > 1 and domain is None):
    raise InputError(
      f'a batch of {size} source examples {"without" if domain is None else "with"} '
      f"'domain' cannot hold {domains} domains alike; see data.batches.merge"
    )
  if domains > 1:
    order = jnp.argsort(domain, stable=True)
    tree = jax.tree.map(lambda x: x[order], tree)
  return jax.tree.map(lambda x: x.reshape(domains, -1, *x.shape[1:]), tree)


def mean_over_pairs(distance: Callable, features: jax.Array) -> jax.Array:
  """Mean distance of two domains' features, (domains, n, D); 0 of a single domain."""
  pairs = list(itertools.combinations(features, 2))
  return sum(itertools.starmap(distance, pairs), jnp.zeros(())) / max(1, len(pairs))


def outputs_by_domain(
  model,
  params: Params,
  state: TrainState,
  source: Batch,
  rng: jax.Array,
  domains: int,
  task_loss: Loss,
) -> tuple[Outputs, Any]:
  """Runs the model in training mode on all domains as one batch.

  Returns:
    Its outputs by endpoint, as of `by_domain`, with 'label', and 'risk' (domains,), the
    task's loss on each; and its updated mutable collections.
  """
  outputs, model_state = apply_train(model, params, state, source['image'], rng)
  outputs = jax.tree.map(lambda x: x.astype(wide(x.dtype)), outputs)
  outputs = {**outputs, 'label': source['label']}
  outputs = by_domain(outputs, source.get('domain'), domains)
  risk = jax.vmap(task_loss)(outputs['logits'], outputs['label'])
  return {**outputs, 'risk': risk}, model_state


def generalize(
  model,
  optimizer: optax.GradientTransformation,
  penalty: Callable[[Outputs], jax.Array],
  *,
  strength: float | optax.Schedule,
  domains: int,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Builds a method of domain generalisation, which looks at no target.

  It minimises the mean risk of the source's domains + strength x the penalty.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves the model's parameters.
    penalty: of what `outputs_by_domain` returns.
    strength: a number or a schedule of the step.
    domains: of the source.
    task_loss: see `align`.
  """
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init(key, variables, batch):
    return new_state(key, model, optimizer, batch['source']['image'], variables)

  def loss_fn(params, state, batch, rng):
    outputs, model_state = outputs_by_domain(
      model, params, state, batch['source'], rng, domains, task_loss
    )
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    task, gap = jnp.mean(outputs['risk']), weight * penalty(outputs)
    metrics = {'task_loss': task, 'alignment_loss': gap, 'strength': weight}
    return task + gap, (model_state, metrics)

  return Method(init, gradient_step(loss_fn, optimizer), predict_with(model))
