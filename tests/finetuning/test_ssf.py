import flax.linen as nn
import jax
import numpy as np

from tljax import models
from tljax.finetuning import ssf
from tljax.finetuning.adapted import AdaptedModel


class Tokens(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    del train
    x = nn.Dense(3, use_bias=False, name='fc')(x)
    return {'features': nn.LayerNorm(epsilon=1e-6, name='norm')(x)}


def test_each_layer_is_scaled_and_shifted():
  """Written out: gamma (xW), then gamma' (its norm) + beta'."""
  spec = models.Spec(1, 1, (0.0,) * 4, (1.0,) * 4, ('all',), feature_dim=3)
  model = models.Classifier(Tokens(), models.Linear(2), spec)
  wrapped = AdaptedModel(model, ssf.SCALE_AND_SHIFT, 'backbone/.*')
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(5, 4)))
  variables = wrapped.init(jax.random.key(0), x)
  shapes = {k: sorted(v) for k, v in variables['params']['ssf'].items()}
  assert shapes == {'backbone|fc': ['scale'], 'backbone|norm': ['scale', 'shift']}
  params = jax.tree.map(
    lambda leaf: np.float32(rng.normal(size=leaf.shape)), variables['params']
  )
  layers, added = params['backbone'], params['ssf']
  y = x @ layers['fc']['kernel'] * added['backbone|fc']['scale']
  y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
  y = y * layers['norm']['scale'] + layers['norm']['bias']
  y = y * added['backbone|norm']['scale'] + added['backbone|norm']['shift']
  got = wrapped.apply({'params': params}, x)['features']
  np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)
