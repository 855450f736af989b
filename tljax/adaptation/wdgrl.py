"""Wasserstein-distance-guided representation learning (Shen et al., 2018)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tljax import losses, optimizers
from tljax.adaptation.adversarial import Discriminator, init_discriminator
from tljax.adaptation.alignment import both_domains
from tljax.method import Method, group_step, new_state, predict_with


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 1.0,
  critic_steps: int = 5,
  critic_rate: float = 1.0,
  penalty: float = 10.0,
  critic=Discriminator(width=128),
) -> Method:
  """Brings the features together by the Wasserstein distance that a critic estimates.

  In a step the critic first ascends the difference of its means over the two domains -
  `penalty` x its `gradient_penalty`, `critic_steps` times on the same features; then
  the model descends source cross-entropy + strength x that difference (algorithm 1).

  Args:
    model: outputs by endpoint, among them 'features' and 'logits'.
    optimizer: moves model and critic; the critic's gradient is clipped to a length of
      1 before, as the penalty is steep and plain descent on it diverges.
    strength: lambda, a number or a schedule of the step.
    critic_steps: n.
    critic_rate: the critic's, over the model's.
    penalty: gamma.
    critic: (N, D) features to (N,).
  """
  of_critic = optax.chain(
    optax.clip_by_global_norm(1.0), optimizer, optax.scale(critic_rate)
  )
  both = optax.multi_transform({'model': optimizer, 'critic': of_critic}, _label_parts)
  optimizer = optimizers.apart(both, ('discriminator',))
  schedule = strength if callable(strength) else optax.constant_schedule(strength)

  def init_params(key, outputs):
    return init_discriminator(critic, key, outputs['features'])

  def init(key, variables, batch):
    images = batch['source']['image']
    return new_state(key, model, optimizer, images, variables, init_params=init_params)

  def critic_of(params):
    return lambda features: critic.apply({'params': params['discriminator']}, features)

  def distance(params, source, target):
    means = [jnp.mean(critic_of(params)(features)) for features in (source, target)]
    return means[0] - means[1]

  def estimate(params, state, batch, rng):
    del rng
    source, target = batch['source'], batch['target']
    points = penalised_points(source, target, batch['share'])
    rough = gradient_penalty(critic_of(params), points)
    gap = distance(params, source, target)
    return penalty * rough - gap, (state.model_state, {})

  def learn(params, state, batch, rng):
    source, target, model_state = both_domains(model, params, state, batch, rng)
    task = losses.cross_entropy(source['logits'], batch['source']['label'])
    weight = jnp.asarray(schedule(state.step), jnp.float32)
    gap = weight * distance(params, source['features'], target['features'])
    metrics = {'task_loss': task, 'alignment_loss': gap, 'strength': weight}
    return task + gap, (model_state, metrics)

  move_critic = group_step(estimate, optimizer, lambda part: part == 'discriminator')
  move_model = group_step(learn, optimizer, lambda part: part != 'discriminator')

  def step(state, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    source, target, _ = both_domains(model, state.params, state, batch, rng)
    features = {'source': source['features'], 'target': target['features']}
    pairs = min(len(x) for x in features.values())
    shares = jax.random.uniform(jax.random.fold_in(rng, 1), (critic_steps, pairs, 1))
    state, _ = jax.lax.scan(
      lambda state, share: move_critic(state, {**features, 'share': share}),
      state,
      shares,
    )
    state, metrics = move_model(state, batch)
    return state.replace(step=state.step + 1), metrics

  return Method(init, step, predict_with(model))


def _label_parts(params):
  def label(path, _):
    return 'critic' if path[0].key == 'discriminator' else 'model'

  # Of each leaf: an optimiser within may label leaves too, as `labels.freeze`'s does.
  return jax.tree_util.tree_map_with_path(label, params)


def penalised_points(
  source: jax.Array, target: jax.Array, share: jax.Array
) -> jax.Array:
  """Where the critic's gradient is held: features (N, D) and (M, D), and P between.

  The points between are of pairs of them; their shares (P, 1) of the source's are in
  [0, 1].
  """
  pairs = len(share)
  between = share * source[:pairs] + (1 - share) * target[:pairs]
  return jnp.concatenate([source, target, between])


def gradient_penalty(
  critic: Callable[[jax.Array], jax.Array], points: jax.Array
) -> jax.Array:
  """Mean squared gap to 1 of the norms of a critic's gradients at points (N, D).

  The critic maps (N, D) to (N,), row by row.
  """
  slopes = jax.grad(lambda x: jnp.sum(critic(x)))(points)
  return jnp.mean(jnp.square(optax.safe_norm(slopes, 0.0, axis=-1) - 1))
