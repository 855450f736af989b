"""SHOT: source hypothesis transfer (Liang et al., 2020)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses, optimizers
from tljax.adaptation.phases import in_turn
from tljax.method import Method, apply_train, group_step, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.3,
  source_steps: int = 1000,
  label_smoothing: float = 0.1,
  decay: float = 0.9,
) -> Method:
  """Trains on the source, then adapts the features without it to a head that stays.

  First all descends the source's smoothed cross-entropy (equation 2). Then all but the
  head descends - `information` of the target's predictions (equation 3) + strength x
  the cross-entropy to pseudo-labels of the nearest centroids (equations 4 to 6). Where
  the paper computes the centroids of the whole target once an epoch, here they follow
  the batches; see `pseudo_label`. Where the source's network is wrong more often than
  right, nothing holds it back from settling on wrong clusters. The authors' code makes
  centroids of features of length 1, with a 1 beside them, and of predicted classes.

  Args:
    model: outputs by endpoint, among them 'features' (N, D) and 'logits' (N, K), those
      of its part 'head'.
    optimizer: moves all parts.
    strength: beta, a number or a schedule of the step.
    source_steps: of the first phase; 0 where the variables are trained already: then
      no step looks at the source.
    label_smoothing: alpha.
    decay: of the centroids' sums a step; 0 takes them from the batch alone.
  """
  optimizer = optimizers.apart(optimizer)
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init(key, variables, batch):
    images = batch['target']['image']
    state = new_state(key, model, optimizer, images, variables)
    outputs = jax.eval_shape(
      lambda v: model.apply(v, images, train=False), state.variables
    )
    shape = (2, outputs['logits'].shape[-1], outputs['features'].shape[-1])
    return state.replace(memory=jnp.zeros(shape))

  def learn(params, state, batch, rng):
    source = batch['source']
    outputs, model_state = apply_train(model, params, state, source['image'], rng)
    logits, labels = outputs['logits'], source['label']
    loss = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss, (model_state, {})

  def explain(params, state, batch, rng):
    images = batch['target']['image']
    outputs, model_state = apply_train(model, params, state, images, rng)
    fit = losses.cross_entropy(outputs['logits'], batch['pseudo_label'])
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    return weight * fit - information(outputs['logits']), (model_state, {})

  move_all = group_step(learn, optimizer, lambda part: True)
  move_features = group_step(explain, optimizer, lambda part: part != 'head')

  def adapt(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)  # as in `explain`: one pass
    outputs, _ = apply_train(model, state.params, state, batch['target']['image'], rng)
    features = outputs['features'].astype(jnp.float32)
    labels, sums = pseudo_label(features, outputs['logits'], state.memory, decay)
    return move_features(state.replace(memory=sums), {**batch, 'pseudo_label': labels})

  step = in_turn(source_steps, move_all, adapt, optimizer)
  return Method(init, step, predict_with(model))


def information(logits: jax.Array) -> jax.Array:
  """Mutual information of images and predictions, in nats: logits (N, K).

  The entropy of the mean prediction - the mean entropy (equation 3, negated).
  """
  marginal = jax.nn.logsumexp(jax.nn.log_softmax(logits), 0)  # log of N x the mean
  return losses.entropy(marginal) - jnp.mean(losses.entropy(logits))


def pseudo_label(
  features: jax.Array, logits: jax.Array, sums: jax.Array, decay: float = 0.9
) -> tuple[jax.Array, jax.Array]:
  """Labels of the nearest class centroids by cosine, in two rounds.

  The first centroids weigh features by the predictions (equation 4), the second are
  those of the first's labels (equation 6). Only directions matter, so sums serve.

  Args:
    features: (N, D).
    logits: (N, K).
    sums: (2, K, D), of earlier batches' features, in either round; 0 at the start.
    decay: of `sums`; with 0 the batch is all there is, as in the paper.

  Returns:
    (N,) int32 labels, and the sums with this batch.
  """
  shares, rounds = jax.nn.softmax(logits), []
  for before in sums:
    rounds.append(decay * before + shares.T @ features)
    labels = _nearest(features, rounds[-1])
    shares = jax.nn.one_hot(labels, logits.shape[-1], dtype=features.dtype)
  return labels, jnp.stack(rounds)


def _nearest(features, centroids):
  lengths = jnp.linalg.norm(centroids, axis=-1)
  cosines = features @ centroids.T / jnp.where(lengths > 0, lengths, 1)[None]
  return jnp.argmax(jnp.where(lengths[None] > 0, cosines, -jnp.inf), -1)
