"""What alignment methods share: source cross-entropy plus one term of both domains."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import losses
from tljax.data.augment import Augment
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
from tljax.sharpness import sharpness_aware


class Term(NamedTuple):
  """What `align` was given."""

  model: Any
  optimizer: optax.GradientTransformation
  loss: Callable
  strength: optax.Schedule
  init_params: Callable | None
  augment: Augment | None
  task_loss: Loss
  radius: float


class Aligned(Method):
  """A method that `align` built; `compose` adds its term to others'."""

  term: Term


def align(
  model,
  optimizer: optax.GradientTransformation,
  alignment_loss: Callable,
  *,
  strength: float | optax.Schedule = 1.0,
  init_params: Callable | None = None,
  augment: Augment | None = None,
  task_loss: Loss = losses.cross_entropy,
  radius: float = 0.0,
) -> Aligned:
  """Builds a method that minimises source cross-entropy plus an alignment loss.

  Both domains go through the model in ONE forward pass, so batch norm sees them as
  one batch, as in the published library's DANN, JAN, MCC, MDD and others; in its AFN,
  FixMatch and OSBP, and the authors' MME, OVANet, RSD and DARE-GRAM, each is one. A
  step takes `{'source': {'image', 'label'}, 'target': {'image'}}`, and
  perhaps 'labelled': {'image', 'label'}, examples of the target; the cross-entropy is
  then the mean over those and the source's (Saito et al., 2019, equation 1).

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters.
    alignment_loss: `(params, source_outputs, target_outputs, strength) -> scalar`;
      it applies the strength itself. The source's outputs have its 'label' too, its
      'domain' where there are several, see `sources.py`, and a 'key' each to draw by.
    strength: a number, or a schedule of the step.
    init_params: `(key, outputs) -> {part: params}`: parameters of the loss itself.
    augment: see `both_domains`.
    task_loss: `(logits, labels) -> ()` in place of the cross-entropy, such as
      `losses.squared_error` of a regression.
    radius: of `sharpness_aware`, for the task's loss alone; see `sdat`.
  """
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init(key, variables, batch):
    images = batch['source']['image']
    return new_state(key, model, optimizer, images, variables, init_params=init_params)

  def task_fn(params, state, batch, rng):
    domains = both_domains(model, params, state, batch, rng, augment)
    logits, labels = domains[0]['logits'], batch['source']['label']
    if 'labelled' in batch:
      logits = jnp.concatenate([logits, domains[1]['labelled']['logits']])
      labels = jnp.concatenate([labels, batch['labelled']['label']])
    return task_loss(logits, labels), domains

  def loss_fn(params, state, batch, rng):
    task, (source, target, model_state) = task_fn(params, state, batch, rng)
    if radius:
      task, _ = sharpness_aware(task_fn, radius)(params, state, batch, rng)
    given = {k: batch['source'][k] for k in ('label', 'domain') if k in batch['source']}
    keys = jax.random.split(jax.random.fold_in(rng, 0), len(source['logits']))
    source = {**source, **given, 'key': keys}
    weight = jax.tree.map(jnp.float32, schedule(state.step))  # a tuple's, of a sum
    alignment = alignment_loss(params, source, target, weight)
    strength = jax.tree.leaves(weight)[0]
    metrics = {'task_loss': task, 'alignment_loss': alignment, 'strength': strength}
    return task + alignment, (model_state, metrics)

  method = Aligned(init, gradient_step(loss_fn, optimizer), predict_with(model))
  method.term = Term(
    model, optimizer, alignment_loss, schedule, init_params, augment, task_loss, radius
  )
  return method


def compose(methods: Sequence[Aligned]) -> Aligned:
  """Builds the method that minimises source cross-entropy plus all alignment losses.

  Each keeps its strength; the 'strength' among the metrics, and the task loss, are the
  first's. They share one forward pass, and the strong view of the first that wants one.

  Args:
    methods: each built with `term.model` and `term.optimizer` of the one before, which
      may have another head, or hold parameters of its loss fixed.

  Raises:
    InputError: by `init`; two of them train parts of one name.
  """
  terms = [method.term for method in methods]

  def init_params(key, outputs):
    parts = {}
    for term, part_key in zip(terms, jax.random.split(key, len(terms)), strict=True):
      new = term.init_params(part_key, outputs) if term.init_params else {}
      for name in parts.keys() & new.keys():
        raise InputError(
          f'two methods of the sum train a {name}; leave one of them out'
        )
      parts |= new
    return parts

  def loss(params, source, target, strengths):
    pairs = zip(terms, strengths, strict=True)
    return sum(term.loss(params, source, target, weight) for term, weight in pairs)

  return align(
    terms[-1].model,
    terms[-1].optimizer,
    loss,
    strength=lambda step: tuple(term.strength(step) for term in terms),
    init_params=init_params,
    augment=next((term.augment for term in terms if term.augment), None),
    task_loss=terms[0].task_loss,
    radius=max(term.radius for term in terms),
  )


def both_domains(
  model,
  params: Params,
  state: TrainState,
  batch: Batch,
  rng: jax.Array,
  augment: Augment | None = None,
) -> tuple[Outputs, Outputs, Any]:
  """Runs the model in training mode on both domains as one batch.

  Args:
    model: outputs by endpoint.
    params: of the model, and others.
    state: of the run.
    batch: `{'source': {'image'}, 'target': {'image'}}`, and perhaps 'labelled', whose
      outputs are `target['labelled']`.
    rng: of this step.
    augment: with it, the target's strong view is in the batch too, and its outputs
      are `target['strong']`; it is drawn where the stream has none of that name.

  Returns:
    The source's and the target's outputs by endpoint, float32 at least, as losses
    want them, and the updated mutable collections.
  """
  names = [name for name in ('source', 'target', 'labelled') if name in batch]
  views = {name: batch[name]['image'] for name in names}
  if augment is not None:
    rng, key = jax.random.split(rng)
    views['strong'] = strong_view(batch['target'], augment, key)
  images = jnp.concatenate([*views.values()])
  outputs, model_state = apply_train(model, params, state, images, rng)
  outputs = jax.tree.map(lambda x: x.astype(wide(x.dtype)), outputs)
  ends = np.cumsum([len(view) for view in views.values()])
  parts = {
    name: jax.tree.map(lambda x, a=end - len(view), b=end: x[a:b], outputs)
    for (name, view), end in zip(views.items(), ends, strict=True)
  }
  source, target = parts.pop('source'), parts.pop('target')
  return source, {**target, **parts}, model_state


def strong_view(target: Batch, augment: Augment, key: jax.Array) -> jax.Array:
  """The target's images, strongly augmented: the stream's own, or drawn here."""
  return target['strong'] if 'strong' in target else augment(key, target['image'])
