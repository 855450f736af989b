"""Maximum classifier discrepancy (Saito et al., 2018)."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses, optimizers
from tljax.adaptation.alignment import both_domains
from tljax.method import Method, group_step, new_state, predict_with

HEADS = ('head', 'second_head')


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  generator_steps: int = 4,
  balance: float = 0.0,
  second_head=None,
) -> Method:
  """Two heads seek target images on which they differ; the features undo it.

  A step has the paper's three parts, on one batch: all descend the source's
  cross-entropy of both heads (equation 2); the heads descend it - strength x their
  `discrepancy` on the target (equation 3); the rest of the model descends that
  discrepancy `generator_steps` times (equation 5). The first two parts also descend
  `balance` x both heads' `class_balance` on the target, as the authors' code has it.
  Prediction is by the first head.

  Args:
    model: outputs by endpoint, among them 'logits', those of its part 'head'.
    optimizer: moves the heads, and the rest, each `apart`.
    strength: a number or a schedule of the step.
    generator_steps: n; the paper tries 2 to 4.
    balance: the published library's is 0.01.
    second_head: `(outputs, train) -> logits` (N, K); by default one like the model's
      head, with parameters of its own.
  """
  second_head = second_head or model.head
  optimizer = optimizers.apart(optimizer, HEADS)
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init_params(key, outputs):
    outputs = optax.tree.zeros_like(outputs)
    return {'second_head': second_head.init(key, outputs)['params']}

  def init(key, variables, batch):
    images = batch['source']['image']
    return new_state(key, model, optimizer, images, variables, init_params=init_params)

  def terms(params, state, batch, rng):
    model_key, head_key = jax.random.split(rng)
    source, target, model_state = both_domains(model, params, state, batch, model_key)
    labels = batch['source']['label']
    # Its batch norms, if any, see both domains too; nobody reads what they gather.
    second, _ = second_head.apply(
      {'params': params['second_head']},
      {k: jnp.concatenate([source[k], target[k]]) for k in source},
      train=True,
      rngs={'dropout': head_key},
      mutable='batch_stats',
    )
    on_source = source['logits'], second[: len(labels)]
    on_target = target['logits'], second[len(labels) :]
    task = sum(losses.cross_entropy(logits, labels) for logits in on_source)
    if balance:
      task += balance * sum(map(class_balance, on_target))
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    return task, weight * discrepancy(*on_target), model_state

  def learn(*args):
    task, gap, model_state = terms(*args)
    return task, (model_state, {'alignment_loss': gap})

  def widen(params, state, batch, rng):
    task, gap, model_state = terms(params, state, batch, rng)
    return task - gap, (model_state, {})

  def narrow(*args):
    _, gap, model_state = terms(*args)
    return gap, (model_state, {})

  move_all = group_step(learn, optimizer, lambda part: True)
  move_heads = group_step(widen, optimizer, lambda part: part in HEADS)
  move_rest = group_step(narrow, optimizer, lambda part: part not in HEADS)

  def step(state, batch):
    strength = jnp.asarray(schedule(state.step), jnp.float32)
    state, metrics = move_all(state, batch)
    state, _ = move_heads(state, batch)
    for _ in range(generator_steps):
      state, _ = move_rest(state, batch)
    return state.replace(step=state.step + 1), {**metrics, 'strength': strength}

  return Method(init, step, predict_with(model))


def discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
  """Mean absolute difference of two heads' softmax predictions (equation 1).

  Logits are (N, K); the mean is over examples and classes.
  """
  return jnp.mean(jnp.abs(jax.nn.softmax(first) - jax.nn.softmax(second)))


def class_balance(logits: jax.Array) -> jax.Array:
  """- the mean over classes of the log of the mean softmax prediction: (N, K) to ().

  The least, log K, is where the predictions are of all classes alike.
  """
  mean = jnp.mean(jax.nn.softmax(logits), 0)
  return -jnp.mean(jnp.log(mean + 1e-6))
