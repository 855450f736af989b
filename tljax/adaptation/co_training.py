"""Co-training by asymmetric tri-training (Saito et al., 2017)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import both_domains
from tljax.method import Method, Params, gradient_step, new_state, predict_with

LABELLERS = ('first_labeller', 'second_labeller')


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  source_steps: int = 1000,
  threshold: float = 0.9,
  difference: float = 0.01,
  labeller=None,
) -> Method:
  """Two heads that look at different features label the target for a third.

  All share the features. The labellers learn from the source, and are kept apart by
  `difference` x `overlap` of their weights (equation 1). After `source_steps`, where
  they `agree` on a target image, its label teaches all three, by strength x the mean
  cross-entropy of what is labelled; the model's own head, which is deployed, learns
  from the target alone then, and from the source before (algorithm 1; labels are of
  the batch, drawn anew in each step, in place of the paper's list for an epoch).

  Args:
    model: outputs by endpoint, among them 'logits', those of its part 'head'.
    optimizer: moves all parts.
    strength: a number or a schedule of the step.
    source_steps: of the first phase.
    threshold: the least probability that one of the two must give to their label.
    difference: lambda.
    labeller: `(outputs, train) -> logits` (N, K), twice; by default one like the
      model's head. Each has parameters of its own.
  """
  labeller = labeller or model.head
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init_params(key, outputs):
    outputs = optax.tree.zeros_like(outputs)
    keys = zip(LABELLERS, jax.random.split(key), strict=True)
    return {name: labeller.init(k, outputs)['params'] for name, k in keys}

  def init(key, variables, batch):
    images = batch['source']['image']
    return new_state(key, model, optimizer, images, variables, init_params=init_params)

  def loss_fn(params, state, batch, rng):
    model_key, *keys = jax.random.split(rng, 3)
    source, target, model_state = both_domains(model, params, state, batch, model_key)

    def label(outputs):
      return [
        labeller.apply({'params': params[k]}, outputs, train=True, rngs={'dropout': r})
        for k, r in zip(LABELLERS, keys, strict=True)
      ]

    early = (state.step < source_steps).astype(jnp.float32)
    truth, guesses = batch['source']['label'], label(target)
    task = sum(losses.cross_entropy(logits, truth) for logits in label(source))
    task += early * losses.cross_entropy(source['logits'], truth)
    labels, sure = agree(*guesses, threshold)
    weight = (1 - early) * jnp.asarray(schedule(state.step), jnp.float32)
    taught = weight * sum(
      mean_of_sure(logits, labels, sure) for logits in (*guesses, target['logits'])
    )
    apart = difference * overlap(*(params[name] for name in LABELLERS))
    metrics = {'task_loss': task, 'alignment_loss': taught, 'strength': weight}
    return task + taught + apart, (model_state, metrics)

  return Method(init, gradient_step(loss_fn, optimizer), predict_with(model))


def agree(
  first: jax.Array, second: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array]:
  """Labels that two heads give alike, and at least one of them with certainty.

  Logits are (N, K).

  Returns:
    (N,) int32 labels, and (N,) float32: 1 where there is one, else 0. Both are
    constants to the gradient.
  """
  heads = [jax.nn.softmax(jax.lax.stop_gradient(x)) for x in (first, second)]
  labels = [jnp.argmax(head, -1) for head in heads]
  most = jnp.maximum(*(jnp.max(head, -1) for head in heads))
  return labels[0], ((labels[0] == labels[1]) & (most >= threshold)).astype(jnp.float32)


def mean_of_sure(logits: jax.Array, labels: jax.Array, sure: jax.Array) -> jax.Array:
  """Cross-entropy of logits (N, K) to labels (N,), over those that are sure (N,).

  0 where none is.
  """
  each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.sum(sure * each) / jnp.maximum(jnp.sum(sure), 1)


def overlap(first: Params, second: Params) -> jax.Array:
  """Sum of |W1^T W2| over two heads' matrices (D, K): 0 if they see other features.

  The authors' code sums |W1 W2^T| of first layers, which is not 0 then.
  """

  def one(a, b):
    return jnp.sum(jnp.abs(a.T @ b)) if a.ndim == 2 else jnp.zeros((), a.dtype)

  return sum(jax.tree.leaves(jax.tree.map(one, first, second)))
