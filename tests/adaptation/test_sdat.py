import chex
import jax
import numpy as np
import optax

from tljax import adaptation, losses
from tljax.method import apply_train


def test_the_task_alone_is_smoothed(model, family_batches):
  """A step of MCC + SDAT by hand: the task's gradient is of where it is higher."""
  batch, radius = family_batches['adaptation'](0), 0.3
  options = {'mcc': {'strength': 2.0}, 'sdat': {'radius': radius}}
  method = adaptation.create('mcc+sdat', model, optax.sgd(1.0), **options)
  state = method.init(jax.random.key(0), None, batch)
  source, rng = batch['source'], jax.random.fold_in(state.rng, 0)
  images = np.concatenate([source['image'], batch['target']['image']])

  def task(params):
    outputs, _ = apply_train(model, params, state, images, rng)
    logits = outputs['logits'][: len(source['label'])]
    return losses.cross_entropy(logits, source['label'])

  ascent = jax.grad(task)(state.params)
  norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(ascent)))
  near = jax.tree.map(lambda w, g: w + radius / norm * g, state.params, ascent)
  smooth = jax.grad(task)(near)

  after, metrics = method.step(state, batch)
  other = adaptation.create('mcc', model, optax.sgd(1.0), strength=2.0)
  twin, twin_metrics = other.step(state, batch)
  wanted = jax.tree.map(lambda w, a, b: w + a - b, twin.params, ascent, smooth)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(after.model_state, twin.model_state, rtol=1e-6)
  for name in ('loss', 'task_loss', 'alignment_loss'):
    np.testing.assert_allclose(metrics[name], twin_metrics[name], rtol=1e-5)
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), ascent, smooth)
  assert max(jax.tree.leaves(gaps)) > 0.01
