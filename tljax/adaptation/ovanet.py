"""One-versus-all network for open-set adaptation (Saito and Saenko, 2021)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.alignment import align
from tljax.method import Method
from tljax.models import products


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.1,
) -> Method:
  """Learns for each class of the source whether an image is of it, or is not.

  Minimises source cross-entropy + half of `one_versus_all` + strength x the mean
  entropy of those decisions on the target; the half is of the authors' code. An image
  is 'unknown', the last class, where the likeliest other class denies it: then the
  logit of 'unknown' is above that of the class by the log-odds. As in the authors'
  code, each `Detectors` vote is by a vector of length 1; theirs are scaled to it after
  a step, these before it. The head is taught one of the K known classes as well, over
  all K + 1 logits.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits' (N, K + 1).
    optimizer: moves model and detectors alike.
    strength: lambda, a number or a schedule of the step.
  """

  def detect(params, outputs):
    detectors = Detectors(outputs['logits'].shape[-1] - 1)
    return detectors.apply({'params': params['detectors']}, outputs['features'])

  def init_params(key, outputs):
    detectors = Detectors(outputs['logits'].shape[-1] - 1)
    features = optax.tree.zeros_like(outputs['features'])
    return {'detectors': detectors.init(key, features)['params']}

  def loss(params, source, target, strength):
    known = one_versus_all(detect(params, source), source['label']) / 2
    odds = detect(params, target)
    # Of two logits, the odds and 0.
    uncertain = losses.entropy(jnp.stack([odds, jnp.zeros_like(odds)], -1))
    return known + strength * jnp.mean(uncertain)

  def predict(state, images):
    outputs = model.apply(state.variables, images, train=False)
    known = outputs['logits'][:, :-1]
    likeliest = jnp.argmax(known, -1, keepdims=True)
    odds = jnp.take_along_axis(detect(state.params, outputs), likeliest, -1)
    unknown = jnp.take_along_axis(known, likeliest, -1) - odds
    return jnp.concatenate([known, unknown], -1)

  trained = align(model, optimizer, loss, strength=strength, init_params=init_params)
  return Method(trained.init, trained.step, predict)


class Detectors(nn.Module):
  """Log-odds (N, K) that features (N, D) are of each class.

  They are the difference of two products: with a vector for the class and one against
  it, each of length 1, so that no odds grow but by the features.
  """

  num_classes: int

  @nn.compact
  def __call__(self, features):
    features = features.astype(jnp.float32)
    shape = features.shape[-1], 2 * self.num_classes
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    kernel = kernel / optax.safe_norm(kernel, 1e-12, axis=0, keepdims=True)
    accept, deny = jnp.split(products.product(features, kernel), 2, -1)
    return accept - deny


def one_versus_all(odds: jax.Array, labels: jax.Array) -> jax.Array:
  """-log p_y - the least log(1 - p_k) of other classes k; the mean.

  Args:
    odds: (N, K) log-odds that an image is of a class.
    labels: (N,) integer, in [0, K), or (N, K) probabilities.
  """
  own = losses.probabilities(labels, odds.shape[-1]).astype(odds.dtype)
  accept = jnp.sum(own * jax.nn.log_sigmoid(odds), -1)
  deny = jnp.min((1 - own) * jax.nn.log_sigmoid(-odds), -1)
  return -jnp.mean(accept + deny)
