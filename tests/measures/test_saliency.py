import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.measures.saliency import grad_cam


@pytest.fixture
def network(model):
  images = jax.random.uniform(jax.random.key(0), (6, 32, 32, 3))
  return model.init(jax.random.key(1), images), images


def test_of_a_linear_head_on_pooled_features_it_is_the_class_activation_map(
  model, network
):
  """Zhou et al. (2016, equation 2): there the weights are the head's, over h w."""
  variables, images = network
  labels = jnp.arange(6)
  outputs = model.apply(variables, images)
  kernel = np.asarray(variables['params']['head']['classifier']['kernel'])
  stage2 = np.asarray(outputs['stage2'], np.float64)
  wanted = np.einsum('nhwd,dn->nhw', stage2, kernel[:, :6]) / stage2[0, ..., 0].size

  def predict(images):
    return model.apply(variables, images)['logits']

  maps = jax.jit(lambda x: grad_cam(predict, x, ('backbone', 'stage2'), labels))(images)
  assert wanted.max() > 1e-3 > -1e-3 > wanted.min()
  np.testing.assert_allclose(maps, np.maximum(wanted, 0), atol=1e-6)


def test_lower_stages_have_finer_maps(model, network):
  variables, images = network

  def predict(images):
    return nn.softmax(model.apply(variables, images)['logits'])

  maps = grad_cam(predict, images, ('backbone', 'stage1'), jnp.zeros(6, int))
  assert maps.shape == (6, 8, 8) and np.isfinite(maps).all() and maps.max() > 0


@pytest.mark.parametrize('stage', [('backbone', 'stage9'), ('head',)])
def test_what_is_no_map_is_named(model, network, stage):
  variables, images = network

  def predict(images):
    return model.apply(variables, images)['logits']

  with pytest.raises(ValueError, match='/'.join(stage)):
    grad_cam(predict, images, stage, jnp.zeros(6, int))
