"""Deep cocktail networks (Xu et al., 2018), their perplexity-weighted prediction."""

import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.adaptation.adversarial import Discriminator, ramp, reverse_gradient
from tljax.adaptation.alignment import align
from tljax.adaptation.sources import by_domain
from tljax.method import Method


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = ramp(10_000),
  discriminator=Discriminator(width=256),
  classifier=None,
  domains: int = 1,
) -> Method:
  """Each source domain has a classifier; those that the target resembles count more.

  Features descend all classifiers' cross-entropy, each on its own domain, and that of
  the model's head on all, and ascend strength x the loss of a discriminator a domain,
  which tells it from the target (equations 1 to 3). Prediction is by `weigh` of the
  classifiers (equations 5 and 6). The paper's pseudo-labels, its choice of the hardest
  domain and its constants of concentration are left out.

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves all parts.
    strength: a number or a schedule of the step; the default is DANN's.
    discriminator: (N, D) features to (N,) logits, one a domain.
    classifier: `(outputs, train) -> logits` (N, K), one a domain; by default like the
      model's head. All have parameters of their own.
    domains: of the source.
  """
  classifier = classifier or model.head

  def init_params(key, outputs):
    outputs = optax.tree.zeros_like(outputs)
    keys = jax.random.split(key, (2, domains))
    heads = jax.vmap(lambda k: classifier.init(k, outputs))(keys[0])
    critics = jax.vmap(lambda k: discriminator.init(k, outputs['features']))(keys[1])
    return {'classifiers': heads['params'], 'discriminators': critics['params']}

  def classify(params, outputs):
    return classifier.apply({'params': params}, outputs)

  def judge(params, features):
    return discriminator.apply({'params': params}, features)

  def loss(params, source, target, strength):
    each = by_domain(source, source.get('domain'), domains)
    logits = jax.vmap(classify)(params['classifiers'], each)
    task = jnp.mean(jax.vmap(losses.cross_entropy)(logits, each['label']))
    critics = params['discriminators']
    on_source = jax.vmap(judge)(critics, reverse_gradient(each['features'], strength))
    features = reverse_gradient(target['features'], strength)
    on_target = jax.vmap(judge, (0, None))(critics, features)
    return task + jnp.mean(jax.vmap(losses.domain_cross_entropy)(on_source, on_target))

  def predict(state, images):
    outputs = model.apply(state.variables, images, train=False)
    heads = jax.vmap(classify, (0, None))(state.params['classifiers'], outputs)
    critics = state.params['discriminators']
    return weigh(heads, jax.vmap(judge, (0, None))(critics, outputs['features']))

  trained = align(model, optimizer, loss, strength=strength, init_params=init_params)
  return Method(trained.init, trained.step, predict)


def weigh(logits: jax.Array, scores: jax.Array) -> jax.Array:
  """Log of the domains' mean prediction, weighted by their perplexity scores.

  A score is -log(1 - D), where D is the discriminator's probability that an example is
  of that domain and not the target (equation 5).

  Args:
    logits: (domains, N, K) of the classifiers.
    scores: (domains, N) logits of the discriminators, 1 being the source.

  Returns:
    (N, K) log-probabilities.
  """
  # Far below 0 a softplus is its argument's exponential, and would underflow.
  perplexity = jax.nn.softplus(jnp.maximum(scores, -50))
  shares = jax.nn.log_softmax(jnp.where(scores < -50, scores, jnp.log(perplexity)), 0)
  return jax.nn.logsumexp(jax.nn.log_softmax(logits) + shares[..., None], 0)
