import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.finetuning import labels, plain, sam


def test_a_step_is_optaxs(model, family_batches):
  batch = family_batches['finetuning'](0)
  optimizer = optax.sgd(0.1, momentum=0.9)
  method = sam.method(model, optimizer, radius=0.2)
  state = method.init(jax.random.key(0), None, batch)
  loss_fn = plain.loss_of(model)

  def gradient(params, _):
    return jax.grad(loss_fn, has_aux=True)(params, state, batch, rng)[0]

  rng = jax.random.fold_in(state.rng, 0)
  ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
  reference = optax.contrib.sam(optimizer, ascent, opaque_mode=True)
  updates, _ = reference.update(
    gradient(state.params, 0),
    reference.init(state.params),
    state.params,
    grad_fn=gradient,
  )
  wanted = optax.apply_updates(state.params, updates)
  after, metrics = method.step(state, batch)
  chex.assert_trees_all_close(after.params, wanted, rtol=1e-4, atol=1e-5)
  twin, plain_metrics = plain.method(model, optimizer).step(state, batch)
  np.testing.assert_allclose(metrics['loss'], plain_metrics['loss'], rtol=1e-6)
  chex.assert_trees_all_close(after.model_state, twin.model_state, rtol=1e-6)
  moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), after.params, twin.params)
  assert max(jax.tree.leaves(moved)) > 1e-3


def test_frozen_parts_are_neither_perturbed_nor_moved(model, family_batches, raw):
  """With the backbone frozen it is the method on the head alone."""
  batch = family_batches['finetuning'](0)
  method = sam.method(*labels.freeze(model, optax.sgd(0.1), 'backbone/.*'), radius=0.5)
  state = method.init(jax.random.key(0), None, batch)
  features = model.apply(state.variables, batch['image'])['features']
  hot = jax.nn.one_hot(batch['label'], 10)

  def gradient(head):
    logits = features @ head['kernel'] + head['bias'][None]
    error = (jax.nn.softmax(logits) - hot) / len(hot)
    return {'kernel': features.T @ error, 'bias': error.sum(0)}

  head = state.params['head']['classifier']
  ascent = gradient(head)
  scale = 0.5 / optax.tree.norm(ascent)
  descent = gradient(jax.tree.map(lambda w, g: w + scale * g, head, ascent))
  wanted = jax.tree.map(lambda w, g: w - 0.1 * g, head, descent)
  after, _ = method.step(state, batch)
  assert raw(after.params['backbone']) == raw(state.params['backbone'])
  chex.assert_trees_all_close(
    after.params['head']['classifier'], wanted, rtol=1e-4, atol=1e-6
  )
