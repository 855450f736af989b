import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax import adaptation
from tljax.adaptation import adversarial
from tljax.adaptation.adversarial import reverse_gradient


@pytest.mark.parametrize('strength', [0.0, 0.3, 1.0, 2.5])
def test_reverse_gradient_against_finite_differences(strength):
  """Forward the identity, so differences see +gradient; backward times -strength."""
  weights = np.random.default_rng(0).normal(size=(3, 4))
  x = np.random.default_rng(1).normal(size=(3, 4))

  def f(x, module, reverse=lambda x: x):
    return module.sum(weights.astype(x.dtype) * module.sin(reverse(x)))

  differences = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[index] = 1e-6
    differences[index] = (f(x + step, np) - f(x - step, np)) / 2e-6

  def reverse(x):
    return reverse_gradient(x, strength)

  def reversed_f(x):
    return f(x, jnp, reverse)

  value, gradient = jax.value_and_grad(reversed_f)(jnp.float32(x))
  np.testing.assert_allclose(value, f(x, np), rtol=1e-5)
  np.testing.assert_allclose(gradient, -strength * differences, rtol=1e-5, atol=1e-7)


def test_reverse_gradient_takes_a_traced_strength_and_any_dtype():
  @jax.jit
  def gradient(x, strength):
    return jax.grad(lambda x: reverse_gradient(x, strength).sum())(x)

  for dtype in (jnp.float32, jnp.bfloat16):
    result = gradient(jnp.ones(2, dtype), jnp.float32(0.5))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(jnp.float32), [-0.5, -0.5])


@pytest.mark.parametrize(('gamma', 'peak'), [(10.0, 1.0), (5.0, 0.3)])
def test_ramp_is_the_papers(gamma, peak):
  steps = np.arange(0, 1001, 50)
  progress = steps.astype(np.float64) / 1000
  expected = peak * (2 / (1 + np.exp(-gamma * progress)) - 1)
  schedule = jax.jit(adversarial.ramp(1000, gamma=gamma, peak=peak))
  values = [schedule(jnp.int32(step)) for step in steps]
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


def test_ramp_defaults_to_ten_and_one():
  expected = 2 / (1 + np.exp(-10 * 0.25)) - 1
  np.testing.assert_allclose(adversarial.ramp(8)(2), expected, rtol=1e-6)


def test_discriminator_has_two_hidden_layers_and_one_logit():
  discriminator = adversarial.Discriminator(width=6)
  logits, variables = discriminator.init_with_output(
    jax.random.key(0), jnp.ones((5, 4))
  )
  shapes = [variables['params'][f'Dense_{i}']['kernel'].shape for i in range(3)]
  assert shapes == [(4, 6), (6, 6), (6, 1)]
  assert logits.shape == (5,)


def normed(rows=11, width=6):
  """A discriminator with batch norm, features far from 0, and parameters like none."""
  discriminator = adversarial.Discriminator(width, norm='batch')
  rng = np.random.default_rng(0)
  features = np.float32(rng.normal(3, 2, (rows, 4)))
  drawn = discriminator.init(jax.random.key(0), jnp.ones((1, 4)))
  params = jax.tree.map(
    lambda x: np.float32(rng.normal(0.3, 1, x.shape)), drawn['params']
  )
  assert set(drawn) == {'params'}
  return discriminator, params, features


@pytest.mark.torch
def test_the_norms_are_torchs_batch_norms():
  """Also its gradients; a bias before a norm, which torch's layers have, is nothing."""
  torch = pytest.importorskip('torch')
  discriminator, params, features = normed()
  layers = []
  for i in range(2):
    kernel, norm = params[f'Dense_{i}']['kernel'], params[f'LayerNorm_{i}']
    layers += [torch.nn.Linear(*kernel.shape), torch.nn.BatchNorm1d(kernel.shape[1])]
    layers += [torch.nn.ReLU()]
    with torch.no_grad():
      layers[-3].weight.copy_(torch.tensor(kernel.T))
      layers[-2].weight.copy_(torch.tensor(norm['scale']))
      layers[-2].bias.copy_(torch.tensor(norm['bias']))
  layers.append(torch.nn.Linear(6, 1))
  with torch.no_grad():
    layers[-1].weight.copy_(torch.tensor(params['Dense_2']['kernel'].T))
    layers[-1].bias.copy_(torch.tensor(params['Dense_2']['bias']))
  theirs = torch.nn.Sequential(*layers).double()
  x = torch.tensor(features, dtype=torch.float64, requires_grad=True)
  scores = theirs(x)[:, 0]
  torch.nn.functional.softplus(scores).sum().backward()

  def loss(params, features):
    scores = discriminator.apply({'params': params}, features)
    return jnp.sum(jax.nn.softplus(scores)), scores

  found, mine = jax.grad(loss, (0, 1), has_aux=True)(params, features)
  np.testing.assert_allclose(mine, scores.detach(), rtol=1e-4, atol=1e-5)
  close = {'rtol': 1e-3, 'atol': 1e-5}
  np.testing.assert_allclose(found[1], x.grad, **close)
  for i in range(2):
    dense, norm = found[0][f'Dense_{i}'], found[0][f'LayerNorm_{i}']
    assert set(dense) == {'kernel'}
    np.testing.assert_allclose(dense['kernel'].T, layers[3 * i].weight.grad, **close)
    np.testing.assert_allclose(norm['scale'], layers[3 * i + 1].weight.grad, **close)
    np.testing.assert_allclose(norm['bias'], layers[3 * i + 1].bias.grad, **close)


def test_the_norms_are_of_both_domains_in_one():
  """By each domain's own, what differs in the mean alone would look alike."""
  discriminator, params, features = normed(rows=12)
  domains = features[:5], features[5:]
  scores = adversarial.discriminate(discriminator, params, *domains)
  x = np.float64(features)
  for i in range(2):
    x = x @ params[f'Dense_{i}']['kernel']
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    x = np.maximum(
      x * params[f'LayerNorm_{i}']['scale'] + params[f'LayerNorm_{i}']['bias'], 0
    )
  wanted = (x @ params['Dense_2']['kernel'] + params['Dense_2']['bias'])[:, 0]
  assert [len(x) for x in scores] == [5, 7]
  np.testing.assert_allclose(np.concatenate(scores), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'name', ['adda', 'bsp', 'cdan', 'dann', 'iwan', 'mada', 'pada']
)
def test_methods_judge_both_domains_in_one_pass(name, headed_points, points_batch):
  """Domains that are each of one image: by its own norms neither could be told."""
  discriminator = adversarial.Discriminator(5, norm='batch')
  one = {'source_steps': 0} if name == 'adda' else {'strength': 0.0}
  method = adaptation.create(
    name, headed_points, optax.sgd(0.1), discriminator=discriminator, **one
  )
  source, target = points_batch['source'], points_batch['target']
  batch = {
    'source': {
      'image': np.repeat(source['image'][:1], 8, 0),
      'label': source['label'][:1].repeat(8),
    },
    'target': {'image': np.repeat(target['image'][:1] + 1, 8, 0)},
  }
  state = method.init(jax.random.key(0), None, batch)
  step, losses = jax.jit(method.step), []
  for _ in range(60):
    state, metrics = step(state, batch)
    losses.append(metrics['loss' if name == 'adda' else 'alignment_loss'])
  assert losses[-1] < 0.6 * losses[0], losses[::20]
