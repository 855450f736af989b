import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.models.heads import Hidden, WeightNorm

ROWS = np.float32(np.random.default_rng(0).normal(2, 5, (12, 20)))


def _hidden(torch, params, batch_norm):
  """PyTorch's layers of `Hidden(3, (8, 6), (0, 0, 0), batch_norm)`."""
  layers = []
  for i in (1, 2):
    layers.append(_linear(torch, params[f'fc{i}']))
    if batch_norm:
      layers.append(torch.nn.BatchNorm1d(len(layers[-1].weight)))
    layers.append(torch.nn.ReLU())
  return torch.nn.Sequential(*layers, _linear(torch, params['classifier']))


def _linear(torch, params):
  linear = torch.nn.Linear(*params['kernel'].shape)
  with torch.no_grad():
    linear.weight.copy_(torch.tensor(params['kernel'].T))
    linear.bias.copy_(torch.tensor(params.get('bias', np.zeros(len(linear.bias)))))
  return linear


@pytest.mark.torch
@pytest.mark.parametrize('batch_norm', [False, True])
def test_hidden_layers_are_pytorchs(batch_norm):
  torch = pytest.importorskip('torch')
  head = Hidden(3, (8, 6), (0.0, 0.0, 0.0), batch_norm)
  variables = head.init(jax.random.key(0), {'features': ROWS})
  params = jax.tree.map(np.asarray, variables['params'])
  assert ('norm1' in params) == batch_norm
  theirs = _hidden(torch, params, batch_norm)
  outputs = {'features': jnp.asarray(ROWS)}
  for train in (True, False):
    theirs.train(train)
    ours, state = head.apply(variables, outputs, train=train, mutable=['batch_stats'])
    wanted = theirs(torch.tensor(ROWS)).detach().numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-4)
    variables = {**variables, **state}
    norms = [x for x in theirs if isinstance(x, torch.nn.BatchNorm1d)]
    for i, norm in enumerate(norms, 1):
      mine = state['batch_stats'][f'norm{i}']
      mean, var = norm.running_mean, norm.running_var
      np.testing.assert_allclose(mine['mean'], mean, rtol=1e-3, atol=1e-4)
      var.copy_(torch.tensor(np.array(mine['var'])))  # theirs is the unbiased one


def test_dropout_is_before_each_layer():
  """With a rate of one a layer is given zeros, and answers by its bias."""
  outputs, rngs = {'features': ROWS}, {'dropout': jax.random.key(1)}
  for i, rates in enumerate(np.eye(3)):
    head = Hidden(3, (8, 6), tuple(rates))
    variables = head.init(jax.random.key(0), outputs)
    for layer in variables['params'].values():
      layer['bias'] += 1.0
    logits = head.apply(variables, outputs, train=True, rngs=rngs)
    assert np.all(logits == logits[:1])
    x = np.zeros((1, (20, 8, 6)[i]), np.float32)
    for name in ('fc1', 'fc2', 'classifier')[i:]:
      layer = variables['params'][name]
      x = np.asarray(x @ layer['kernel'] + layer['bias'][None])
      x = x if name == 'classifier' else np.maximum(x, 0)
    np.testing.assert_allclose(logits[:1], x, rtol=1e-5)
    assert not np.all(head.apply(variables, outputs) == logits)


@pytest.mark.torch
def test_weight_norm_is_pytorchs():
  torch = pytest.importorskip('torch')
  head, outputs = WeightNorm(3), {'features': jnp.asarray(ROWS)}
  variables = head.init(jax.random.key(0), outputs)
  ours = variables['params']['classifier']
  np.testing.assert_array_equal(ours['scale'], np.ones(3))
  scale = jnp.array([0.5, 2.0, 3.0])
  variables = {'params': {'classifier': ours | {'scale': scale}}}
  linear = _linear(torch, jax.tree.map(np.asarray, ours))
  theirs = torch.nn.utils.parametrizations.weight_norm(linear)
  weights = theirs.parametrizations.weight
  with torch.no_grad():
    weights.original0.copy_(torch.tensor(np.array(scale))[:, None])
  logits = theirs(torch.tensor(ROWS))
  np.testing.assert_allclose(
    head.apply(variables, outputs), logits.detach().numpy(), rtol=1e-4, atol=1e-5
  )
  (logits**2).sum().backward()
  grads = jax.grad(lambda v: jnp.sum(head.apply(v, outputs) ** 2))(variables)
  grads = grads['params']['classifier']
  for found, wanted in (
    (grads['scale'], weights.original0.grad[:, 0]),
    (grads['kernel'], weights.original1.grad.T),
    (grads['bias'], theirs.bias.grad),
  ):
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-3)
