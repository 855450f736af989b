import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import losses
from tljax.errors import InputError
from tljax.finetuning import plain


def test_one_step_is_sgd_on_the_cross_entropy(model, family_batches):
  batch, rate = family_batches['finetuning'](0), 0.1
  method = plain.method(model, optax.sgd(rate), label_smoothing=0.2)
  state = method.init(jax.random.key(0), None, batch)

  def loss(params):
    outputs, model_state = model.apply(
      {'params': params, **state.model_state},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.fold_in(state.rng, 0)},
    )
    logits = outputs['logits']
    accuracy = np.mean(np.argmax(jax.lax.stop_gradient(logits), -1) == batch['label'])
    smoothed = losses.cross_entropy(logits, batch['label'], label_smoothing=0.2)
    return smoothed, (model_state, accuracy)

  gradient = jax.grad(loss, has_aux=True)(state.params)[0]
  value, (model_state, accuracy) = loss(state.params)
  after, metrics = method.step(state, batch)
  expected = jax.tree.map(lambda p, g: p - rate * g, state.params, gradient)
  chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(after.model_state, dict(model_state), rtol=1e-5)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], accuracy)


def test_it_starts_from_the_pretrained_variables(model, family_batches, raw):
  batch = family_batches['finetuning'](0)
  variables = model.init(jax.random.key(7), jnp.zeros((1, 16, 16, 3)))
  state = plain.method(model, optax.sgd(0.1)).init(jax.random.key(0), variables, batch)
  assert raw(state.variables) == raw(variables)


class Affine(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    del train
    return {'logits': nn.Dense(3, name='head')(x)}


def test_another_loss(family_batches):
  """Of a regression, whose labels are the images' mean colours."""
  images = family_batches['finetuning'](0)['image']
  features, labels = images.reshape(len(images), -1), np.mean(images, (1, 2))
  batch = {'image': features, 'label': labels}
  method = plain.method(Affine(), optax.sgd(0.1), loss=losses.squared_error)
  state = method.init(jax.random.key(0), None, batch)
  head = state.params['head']
  error = features @ head['kernel'] + head['bias'][None] - labels
  after, metrics = method.step(state, batch)
  assert list(metrics) == ['loss']
  np.testing.assert_allclose(metrics['loss'], np.mean(error**2), rtol=1e-5)
  gradient = 2 * features.T @ error / error.size
  wanted = head['kernel'] - 0.1 * gradient
  np.testing.assert_allclose(
    after.params['head']['kernel'], wanted, rtol=1e-4, atol=1e-6
  )


def test_another_loss_has_no_smooth_labels():
  options = {'loss': losses.squared_error, 'label_smoothing': 0.1}
  with pytest.raises(InputError, match='label_smoothing is 0.1, .*; leave it out'):
    plain.method(Affine(), optax.sgd(0.1), **options)
