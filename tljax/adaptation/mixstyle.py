"""MixStyle: domain generalisation by mixed statistics (Zhou et al., 2021)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.errors import InputError
from tljax.losses import Loss
from tljax.method import Method, apply_train, gradient_step, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  stages: Sequence[str] = ('stage1', 'stage2'),
  probability: float = 0.5,
  alpha: float = 0.1,
  task_loss: Loss = losses.cross_entropy,
) -> Method:
  """Trains on source images in each other's style; the target is not looked at.

  In training, a stage's output goes through `mix_style`, of any two images of the batch
  (section 3.2, with random shuffling). There is no parameter, and no change in
  prediction.

  Args:
    model: outputs by endpoint, among them 'logits'; with dropout's random numbers.
    optimizer: moves the model's parameters.
    stages: names of modules whose outputs (N, H, W, C) are mixed; the paper's are the
      first two or three of a ResNet.
    probability: that a stage mixes in a step.
    alpha: of the beta distribution of the shares.
    task_loss: see `align`.

  Raises:
    InputError: by `init`; the model has no such stage.
  """

  def mixed(found=None):
    def intercept(next_call, args, kwargs, context):
      outputs, module = next_call(*args, **kwargs), context.module
      is_map = context.method_name == '__call__' and getattr(outputs, 'ndim', 0) == 4
      if module.name not in stages or not is_map:
        return outputs
      if found is not None:
        found.add(module.name)
      return mix_style(module.make_rng('dropout'), outputs, probability, alpha)

    return nn.intercept_methods(intercept)

  def init(key, variables, batch):
    images, found = batch['source']['image'], set()
    state = new_state(key, model, optimizer, images, variables)
    with mixed(found):
      jax.eval_shape(lambda s: apply_train(model, s.params, s, images, s.rng), state)
    for stage in set(stages) - found:
      raise InputError(f'mixstyle: the model has no stage {stage!r} to mix at')
    return state

  def loss_fn(params, state, batch, rng):
    source = batch['source']
    with mixed():
      outputs, model_state = apply_train(model, params, state, source['image'], rng)
    logits, labels = outputs['logits'], source['label']
    return task_loss(logits, labels), (model_state, {})

  return Method(init, gradient_step(loss_fn, optimizer), predict_with(model))


def mix_style(
  key: jax.Array, x: jax.Array, probability: float = 0.5, alpha: float = 0.1
) -> jax.Array:
  """Gives each map the mean and deviation of itself and another, in random shares.

  (Equations 4 to 6.) Means and deviations are over space, channel by channel, and
  constants to the gradient; shares are of Beta(alpha, alpha).

  Args:
    key: of the coin, the shares and the pairs.
    x: (N, H, W, C).
    probability: that it is done at all.
    alpha: the less, the closer are shares to 0 and 1.
  """
  coin, share_key, pair_key = jax.random.split(key, 3)
  mean = jax.lax.stop_gradient(jnp.mean(x, (1, 2), keepdims=True))
  std = jax.lax.stop_gradient(jnp.sqrt(jnp.var(x, (1, 2), keepdims=True) + 1e-6))
  share = jax.random.beta(share_key, alpha, alpha, (len(x), 1, 1, 1)).astype(x.dtype)
  other = jax.random.permutation(pair_key, len(x))
  new_mean, new_std = (share * y + (1 - share) * y[other] for y in (mean, std))
  mixed = (x - mean) / std * new_std + new_mean
  return jnp.where(jax.random.bernoulli(coin, probability), mixed, x)
