import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import models
from tljax.errors import InputError
from tljax.finetuning import visual_prompt
from tljax.finetuning.visual_prompt import PromptedModel
from tljax.models.base import Options
from tljax.models.vit import Block, Embed, VisionTransformer
from tljax.models.vit_layouts import Config

WIDTH, DEPTH, TOKENS = 8, 3, 2
CONFIG = Config(WIDTH, DEPTH, 2, patch=4, registers=0, dino=False, clip=False)


pytestmark = pytest.mark.usefixtures('compile_fast')


def transformer(pool='token', **options):
  stages = ('embed', 'block1', 'block2', 'block3', 'norm')
  spec = models.Spec(8, 8, (0.0,) * 3, (1.0,) * 3, stages, WIDTH)
  backbone = VisionTransformer(CONFIG, 2, pool, Options(**options))
  return models.Classifier(backbone, models.Linear(5), spec)


@pytest.fixture(scope='module')
def images():
  return jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))


@pytest.mark.parametrize('deep', [False, True])
@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_tokens_written_out_block_by_block(deep, pool, images):
  """[x, Z] = L_1([x_0, P]), ...; deep: [x_i, _] = L_i([x_{i-1}, P_i]) (section 3.2)."""
  model = transformer(pool)
  wrapped = PromptedModel(model, TOKENS, deep, 0.1)
  variables = wrapped.init(jax.random.key(1), images)
  prompts = variables['params']['prompt']['tokens']
  assert prompts.shape == (DEPTH if deep else 1, TOKENS, WIDTH)
  limit = np.sqrt(6 / (3 * 4 * 4 + WIDTH))
  assert np.max(np.abs(prompts)) <= limit and np.ptp(prompts) > limit

  backbone = variables['params']['backbone']
  embed, block = Embed(CONFIG, 2, Options()), Block(CONFIG, 0.0, Options())
  x = embed.apply({'params': backbone['embed']}, images, False)
  patches = x.shape[1]
  for i in range(DEPTH):
    if i == 0 or deep:
      x = jnp.concatenate([x[:, :patches], jnp.stack([prompts[i]] * 2)], 1)
    x = block.apply({'params': backbone[f'block{i + 1}']}, x, False)
  norm = nn.LayerNorm(epsilon=CONFIG.epsilon)
  x = norm.apply({'params': backbone['norm']}, x)[:, :patches]
  features = x[:, 0] if pool == 'token' else x[:, 1:].mean(1)
  got = wrapped.apply(variables, images)
  np.testing.assert_allclose(got['features'], features, rtol=1e-4, atol=1e-5)
  assert got['tokens'].shape == (2, patches, WIDTH)


@pytest.mark.parametrize('deep', [False, True])
def test_with_remat_it_is_the_same(deep, images):
  wrapped = [
    PromptedModel(transformer(remat=remat), TOKENS, deep, 0.1)
    for remat in (False, True)
  ]
  variables = wrapped[0].init(jax.random.key(1), images)

  def loss(wrapped):
    return lambda v: jnp.sum(wrapped.apply(v, images)['features'] ** 3)

  got, wanted = (jax.grad(loss(w))(variables)['params']['prompt'] for w in wrapped)
  np.testing.assert_allclose(got['tokens'], wanted['tokens'], rtol=1e-4, atol=1e-5)
  assert all(np.any(tokens != 0) for tokens in got['tokens'])


def test_other_networks_get_a_frame(model, family_batches, raw):
  stream = family_batches['finetuning']
  images = stream(0)['image']
  wrapped = PromptedModel(model, 1, False, 0.2)
  variables = wrapped.init(jax.random.key(1), images)
  base = {**variables, 'params': dict(variables['params'])}
  prompt = base['params'].pop('prompt')
  assert raw(wrapped.apply(variables, images)) == raw(model.apply(base, images))

  prompt = optax.tree.random_like(jax.random.key(2), prompt)
  prompt = jax.tree.map(np.asarray, prompt)
  framed = np.array(images)
  framed[:, :3] += prompt['top']
  framed[:, -3:] += prompt['bottom']
  framed[:, 3:-3, :3] += prompt['left']
  framed[:, 3:-3, -3:] += prompt['right']
  got = wrapped.apply(
    {**variables, 'params': {**base['params'], 'prompt': prompt}}, images
  )
  wanted = model.apply(base, framed)
  np.testing.assert_allclose(got['logits'], wanted['logits'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['tokens', 'frame'])
def test_training_moves_the_prompt_and_the_head_alone(
  kind, model, family_batches, images, raw
):
  batch = {'image': images, 'label': jnp.arange(2)}
  if kind == 'frame':
    batch = family_batches['finetuning'](0)
  network = model if kind == 'frame' else transformer()
  method = visual_prompt.method(network, optax.adamw(1e-2), deep=kind == 'tokens')
  state = method.init(jax.random.key(0), None, batch)
  before = raw(state.variables)
  step = jax.jit(method.step)
  for _ in range(2):
    state, _ = step(state, batch)
  after = raw(state.variables)
  moved = {name for name in before if before[name] != after[name]}
  assert moved == {n for n in before if n.split('/')[1] in ('prompt', 'head')}
  assert not any('backbone/' in name for name in raw(state.opt_state))


@pytest.mark.parametrize(
  ('options', 'named'),
  [
    ((1, True, 0.2), 'a deep prompt is for vision transformers'),
    ((1, False, 0.01), 'frame=0.01 is 0 pixels of images of 16x16'),
    ((1, False, 0.5), 'frame=0.5 is 8 pixels of images of 16x16'),
  ],
)
def test_what_does_not_fit_is_refused(model, options, named):
  with pytest.raises(InputError, match=named):
    PromptedModel(model, *options).init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
