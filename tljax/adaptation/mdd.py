"""Margin disparity discrepancy (Zhang et al., 2019)."""

import jax
import jax.numpy as jnp
import optax

from tljax.adaptation.adversarial import ramp, reverse_gradient
from tljax.adaptation.alignment import align
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(10_000, peak=0.1),
  margin: float = 4.0,
  adversary=None,
) -> Method:
  """Trains features on which no other classifier disagrees on the target alone.

  The adversary, a second head, maximises `margin_disparity`; the features minimise
  source cross-entropy + strength x the disparity; gradient reversal makes both one
  descent (equations 27 to 30).

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves model and adversary alike.
    strength: eta, a number or a schedule of the step; the default rises to the
      authors' 0.1.
    margin: gamma.
    adversary: `(outputs, train) -> logits` (N, K), without a batch norm; by default
      one like the model's head, with parameters of its own.
  """
  adversary = adversary or model.head

  def init_params(key, outputs):
    outputs = optax.tree.zeros_like(outputs)
    return {'adversary': adversary.init(key, outputs)['params']}

  def loss(params, source, target, strength):
    def oppose(outputs, key):
      outputs = jax.tree.map(lambda x: reverse_gradient(x, strength), outputs)
      variables, rngs = {'params': params['adversary']}, {'dropout': key}
      return adversary.apply(variables, outputs, train=True, rngs=rngs)

    keys = jax.random.split(source['key'][0])
    on_source, on_target = map(oppose, (source, target), keys)
    return -margin_disparity(
      source['logits'], on_source, target['logits'], on_target, margin
    )

  return align(model, optimizer, loss, strength=strength, init_params=init_params)


def margin_disparity(
  source: jax.Array,
  source_adversary: jax.Array,
  target: jax.Array,
  target_adversary: jax.Array,
  margin: float = 4.0,
) -> jax.Array:
  """How much more an adversary disagrees on the target than on the source.

  margin E_s[log p'_y] + E_t[log(1 - p'_y)], where y is the main prediction, and p'
  the adversary's probabilities (equation 29). All are logits, (N, K) or (M, K).
  """

  def chosen(logits):
    return jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)

  agree = jax.nn.log_softmax(source_adversary)
  agree = jnp.sum(jnp.where(chosen(source), agree, 0), -1)
  # log(1 - p'_y) as the other classes' share, which stays finite where p'_y is 1.
  others = jnp.where(chosen(target), -jnp.inf, target_adversary)
  differ = jax.nn.logsumexp(others, -1) - jax.nn.logsumexp(target_adversary, -1)
  return margin * jnp.mean(agree) + jnp.mean(differ)
