import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax import models
from tljax.finetuning import ia3
from tljax.finetuning.adapted import AdaptedModel
from tljax.models.base import Options
from tljax.models.vit import Block
from tljax.models.vit_layouts import Config

WIDTH, HEADS = 8, 2


class Network(Block):
  """One block of a vision transformer."""

  def __call__(self, x, train=False):
    return {'features': super().__call__(x, train)}


def norm(x, params):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * params['scale'] + params['bias']


def dense(x, params):
  return x @ params['kernel'] + params['bias']


def test_a_transformers_block_written_out():
  """softmax(Q (l_k K)^T / sqrt(d)) (l_v V), then (l_ff gelu(xW)) W' (section 3.3)."""
  config = Config(WIDTH, 1, HEADS, patch=1, registers=0, dino=False, clip=False)
  spec = models.Spec(1, 1, (0.0,) * WIDTH, (1.0,) * WIDTH, ('all',), WIDTH)
  block = Network(config, 0.0, Options())
  model = models.Classifier(block, models.Linear(2), spec)
  wrapped = AdaptedModel(model, ia3.RESCALING, 'backbone/.*')
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(2, 3, WIDTH)))
  variables = wrapped.init(jax.random.key(0), x)
  params = jax.tree.map(
    lambda leaf: np.float32(rng.normal(size=leaf.shape) / 2), variables['params']
  )
  layers, added = params['backbone'], params['ia3']
  assert {k: {n: v.shape for n, v in a.items()} for k, a in added.items()} == {
    'backbone|qkv': {'keys': (WIDTH,), 'values': (WIDTH,)},
    'backbone|fc2': {'inputs': (4 * WIDTH,)},
  }

  scale = added['backbone|qkv']
  q, k, v = np.split(dense(norm(x, layers['norm1']), layers['qkv']), 3, -1)
  attended = np.empty_like(x)
  for head in range(HEADS):
    part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
    keys, values = (k * scale['keys'])[..., part], (v * scale['values'])[..., part]
    scores = q[..., part] @ keys.swapaxes(1, 2) / np.sqrt(WIDTH // HEADS)
    powers = np.exp(scores)
    attended[..., part] = powers / powers.sum(-1, keepdims=True) @ values
  y = x + dense(attended, layers['proj'])
  hidden = jax.nn.gelu(dense(norm(y, layers['norm2']), layers['fc1']), False)
  y = y + dense(np.asarray(hidden) * added['backbone|fc2']['inputs'], layers['fc2'])
  got = wrapped.apply({'params': params}, x)['features']
  np.testing.assert_allclose(got, y, rtol=1e-3, atol=1e-4)


def test_a_published_transformers_layers():
  """By default in each of twelve blocks, and not in the embedding."""
  model = models.create('vit_tiny_patch16_224', 10, image_size=32)
  batch = {'image': jnp.ones((1, 32, 32, 3)), 'label': jnp.zeros(1, jnp.int32)}
  method = ia3.method(model, optax.sgd(0.1))
  params = jax.eval_shape(method.init, jax.random.key(0), None, batch).params['ia3']
  wanted = {f'backbone|block{i + 1}|{n}' for i in range(12) for n in ('qkv', 'fc2')}
  assert set(params) == wanted
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (12 * (192 + 192 + 768))
