"""Bi-tuning of pretrained representations (Zhong et al., 2020)."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.method import (
  Method,
  Params,
  apply_train,
  follow,
  gradient_step,
  new_state,
  predict_with,
)
from tljax.models.products import Dense


class Memory(NamedTuple):
  """What Bi-tuning remembers: the key network, and by class its last keys.

  Attributes:
    params: of the key network.
    features: (K, Q, D + 1) float32, with norm 1.
    projections: (K, Q, P) float32, with norm 1.
    position: (K,) int32, of the oldest key.
  """

  params: Params
  features: jax.Array
  projections: jax.Array
  position: jax.Array


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  queue: int = 40,
  momentum: float = 0.999,
  temperature: float = 0.07,
  width: int = 128,
  view: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Method:
  """Contrasts an image with the last ones of each class, by features and projections.

  The loss is cross-entropy + strength x (contrastive cross-entropy + categorical
  contrastive loss). The keys are of a network whose weights follow the trained one's
  with momentum. As in the authors' library the classifier's vectors take no gradient
  of the contrast. Both contrasts see the queue as it was before the batch; that
  library's feature contrast sees the batch's own keys too. Labels are integers.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'; its part 'head' is
      linear in the features.
    optimizer: moves all parameters, the part 'projector' too.
    strength: of both contrasts, a number or a schedule of the step.
    queue: Q, keys of each class; these defaults are the authors' library's.
    momentum: m, what the key network keeps of itself a step.
    temperature: tau of both contrasts.
    width: P, of the projections.
    view: `(key, images) -> images`, what the key network sees, such as
      `data.augment.flip`; by default the same images.
  """
  schedule = strength if callable(strength) else optax.constant_schedule(strength)
  projector = Dense(
    width, kernel_init=nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
  )

  def init_params(key, outputs):
    features = jnp.zeros(outputs['features'].shape, jnp.float32)
    params = dict(projector.init(key, features)['params'])
    # As PyTorch draws both: normalised, a projection near zero has a huge gradient.
    limit = features.shape[-1] ** -0.5
    bias_key = jax.random.fold_in(key, 1)
    params['bias'] = jax.random.uniform(bias_key, (width,), jnp.float32, -limit, limit)
    return {'projector': params}

  def init(key, variables, batch):
    images = batch['image']
    state = new_state(key, model, optimizer, images, variables, init_params=init_params)
    depth, classes = _classifier(state.params)[0].shape
    keys = jax.random.split(jax.random.fold_in(key, 1))
    shapes = (classes, queue, depth + 1), (classes, queue, width)
    return state.replace(
      memory=Memory(
        jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state.params),
        *(_unit(jax.random.normal(k, s)) for k, s in zip(keys, shapes, strict=True)),
        jnp.zeros(classes, jnp.int32),
      )
    )

  def embed(params, state, images, rng):
    """Outputs, unit features and unit projections, new model state."""
    outputs, model_state = apply_train(model, params, state, images, rng)
    features = outputs['features'].astype(jnp.float32)
    projections = projector.apply({'params': params['projector']}, features)
    return outputs, (_unit_affine(features), _unit(projections)), model_state

  def loss_fn(params, state, batch, rng):
    outputs, (features, projections), model_state = embed(
      params, state, batch['image'], rng
    )
    logits, labels, memory = outputs['logits'], batch['label'], state.memory
    kernel, bias = _classifier(jax.lax.stop_gradient(params))
    vectors = _unit(jnp.concatenate([kernel.T, bias[:, None]], 1))[labels]
    by_features = contrast(
      jnp.sum(vectors * features, -1),
      jnp.einsum('nd,kqd->nkq', vectors, memory.features),
      labels,
      temperature,
    )
    by_projections = contrast(
      jnp.sum(projections * batch['key_projections'], -1),
      jnp.einsum('nd,kqd->nkq', projections, memory.projections),
      labels,
      temperature,
    )
    task, metrics = plain.judge(logits, labels)
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    penalty = weight * (by_features + by_projections)
    metrics |= {'task_loss': task, 'penalty': penalty}
    return task + penalty, (model_state, metrics)

  descend = gradient_step(loss_fn, optimizer)

  def step(state, batch):
    if batch['label'].ndim > 1:
      raise InputError('bi_tuning wants a class of each image; do not mix images')
    rng, view_key = jax.random.split(jax.random.fold_in(state.rng, state.step))
    memory = state.memory
    params = follow(memory.params, state.params, 1 - momentum)
    images = view(view_key, batch['image']) if view else batch['image']
    _, (features, projections), _ = embed(params, state, images, rng)
    after, metrics = descend(state, {**batch, 'key_projections': projections})
    slots, position = _slots(batch['label'], memory.position, queue)
    return after.replace(
      memory=Memory(
        params,
        memory.features.at[slots].set(features, mode='drop'),
        memory.projections.at[slots].set(projections, mode='drop'),
        position,
      )
    ), metrics

  return Method(init, step, predict_with(model))


def contrast(
  current: jax.Array, queued: jax.Array, labels: jax.Array, temperature: float
) -> jax.Array:
  """Mean cross-entropy of telling the keys of an example's class from all others.

  Args:
    current: (N,) similarity with the example's own key.
    queued: (N, K, Q) with the keys that are remembered of each class.
    labels: (N,) integer, in [0, K).
    temperature: tau.

  Returns:
    The mean over examples of -1 / (Q + 1) sum over the positives, of
    log exp(s / tau) / (sum over all keys of exp(s / tau)).
  """
  current, queued = current / temperature, queued / temperature
  positive = jnp.take_along_axis(queued, labels[:, None, None], 1)[:, 0]
  every = jnp.concatenate([current[:, None], queued.reshape(len(labels), -1)], 1)
  positive = jnp.concatenate([current[:, None], positive], 1)
  return jnp.mean(jax.nn.logsumexp(every, 1) - jnp.mean(positive, 1))


def _classifier(params):
  """Kernel (D, K) and bias (K,) of a linear head."""
  layer = params['head'].get('classifier', {})
  if 'bias' not in layer or layer['kernel'].ndim != 2 or len(params['head']) > 1:
    raise InputError('bi_tuning wants a linear head; give the model models.Linear')
  return layer['kernel'], layer['bias']


def _unit(x):
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _unit_affine(features):
  return _unit(jnp.concatenate([features, jnp.ones_like(features[:, :1])], 1))


def _slots(labels, position, queue):
  """Where the batch's keys go: by class, the oldest first; and the next positions.

  Of more than a queue's worth only the last stay; the others' slots are outside.
  """
  one_hot = jax.nn.one_hot(labels, len(position), dtype=jnp.int32)
  count = jnp.sum(one_hot, 0)
  rank = jnp.sum((jnp.cumsum(one_hot, 0) - 1) * one_hot, 1)
  slot = (position[labels] + rank) % queue
  slot = jnp.where(rank < count[labels] - queue, queue, slot)
  return (labels, slot), (position + count) % queue
