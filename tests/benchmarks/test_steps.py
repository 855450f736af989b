"""PyTorch's twins do the same work: what trains, the losses, the gradients."""

import importlib
import re

import jax
import numpy as np
import pytest

from benchmarks import adapt, harness, steps
from tests import gradients, oracles
from tljax import adaptation, models
from tljax.finetuning import summary

BATCH = 4
SMALL = steps.Settings(batch_size=BATCH, pixels=32)


@pytest.fixture
def twins():
  """The module of PyTorch's networks and steps."""
  oracles.torch_hub('torchvision')
  oracles.torch_hub('timm')
  return steps.torch_twins


@pytest.mark.torch
@pytest.mark.parametrize('strategy', [s for s in steps.STRATEGIES if s != 'features'])
@pytest.mark.parametrize('network', steps.NETWORKS)
def test_the_twin_trains_as_many_parameters(twins, network, strategy, monkeypatch):
  monkeypatch.setattr(twins, 'placed', lambda module, train=True: module.train(train))
  width = models.spec(network).feature_dim
  with oracles.torch().device('meta'):
    given = network, strategy, width, steps.CLASSES, steps.RANK
    _, modules = twins.supervised(*given)
  wanted = [p for m in modules for p in m.parameters() if p.requires_grad]
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  batch = {'image': images, 'label': jax.ShapeDtypeStruct((1,), np.int32)}
  method = steps.build_method(network, strategy)
  state = summary.abstract_state(method, None, batch)
  moved = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]  # momentum
  assert sum(leaf.size for leaf in moved) == sum(p.numel() for p in wanted)
  trains = any(m.training for m in modules[0].modules())
  assert trains == (strategy in ('top', 'fine_tune'))


def in_torch(leaf):
  """A kernel or bias in torch's layout."""
  axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
  return np.ascontiguousarray(np.asarray(leaf).transpose(axes))


def copy_into(modules, params):
  """Puts our layers into torch's, which are as many and in our order."""
  torch = oracles.torch()
  layers = [layer for module in modules for layer in layers_of(module)]
  assert len(layers) == len(params)
  for layer, ours in zip(layers, params, strict=True):
    layer.weight.data = torch.tensor(in_torch(ours.get('kernel', ours.get('scale'))))
    if layer.bias is not None:
      layer.bias.data = torch.tensor(in_torch(ours['bias']))


def layers_of(module):
  return [m for m in module.modules() if getattr(m, 'weight', None) is not None]


def vgg_layers(params):
  """Our VGG's and its head's layers from the bottom, LoRA's A and B after each."""
  layers = []
  for stage, convs in sorted(params['backbone'].items()):
    for name, conv in sorted(convs.items()):
      added = params.get('lora', {}).get(f'backbone|{stage}|{name}', {})
      layers += [conv, *({'kernel': added[k]} for k in sorted(added))]
  return [*layers, params['head']['classifier']]


@pytest.mark.torch
@pytest.mark.parametrize('strategy', [s for s in steps.STRATEGIES if s != 'features'])
def test_the_twin_fine_tunes_alike(twins, strategy):
  arrays = steps.draw(BATCH, 32, steps.CLASSES)
  method = steps.build_method('vgg16', strategy)
  state = harness.filled(summary.abstract_state(method, None, arrays))
  given = 'vgg16', strategy, 512, steps.CLASSES, steps.RANK
  step, modules = twins.supervised(*given)
  lifted = jax.tree.map(lambda leaf: 1.4 * leaf, state.params)  # ReLUs halve the signal
  state = state.replace(params=lifted)
  layers = vgg_layers(state.params)
  if strategy == 'lora':  # in torch the 1x1 B is a convolution
    layers = [as_convolution(layer) for layer in layers[:-1]] + layers[-1:]
  copy_into(modules, layers)
  ours, theirs, batch = [], [], twins.placed_batch(arrays)
  run = jax.jit(method.step)
  for _ in range(3):
    state, metrics = run(state, arrays)
    ours.append(float(metrics['loss']))
    theirs.append(float(step(*batch)))
  np.testing.assert_allclose(theirs, ours, rtol=1e-4)
  assert abs(ours[2] - ours[0]) > 1e-3 * ours[0]  # so that the gradients count


def as_convolution(layer):
  kernel = layer['kernel']
  return {**layer, 'kernel': kernel if kernel.ndim == 4 else kernel[None, None]}


@pytest.mark.torch
@jax.numpy_dtype_promotion('standard')  # flax's norms mix their dtypes
def test_the_twin_computes_alike_in_half_precision(twins):
  torch_adapt = importlib.import_module('benchmarks.torch_adapt')
  arrays = steps.draw(BATCH, 16, 10, domains=2)
  method = adaptation.create(
    'dann',
    steps.build_model('cnn', 10, 'bfloat16'),
    steps.optimizer(),
    strength=adapt.STRENGTH,
  )
  source = {k: arrays[k] for k in ('image', 'label')}
  batch = {'source': source, 'target': {'image': arrays['target']}}
  state = method.init(jax.random.key(0), None, batch)
  given = 'cnn', 'dann', 64, 10, adapt.STRENGTH, adapt.MAP_WIDTH, 'bfloat16'
  step, (cnn, *others) = torch_adapt.adaptation(*given)
  stages = [stage for _, stage in sorted(state.params['backbone'].items())]
  copy_into(cnn.convs, [stage['conv'] for stage in stages])
  copy_into(cnn.norms, [stage['norm'] for stage in stages])
  judge = [layer for _, layer in sorted(state.params['discriminator'].items())]
  copy_into(others, [state.params['head']['classifier'], *judge])
  run, theirs = jax.jit(method.step), twins.placed_batch(arrays)
  for _ in range(3):
    state, metrics = run(state, batch)
    np.testing.assert_allclose(float(step(*theirs)), metrics['loss'], rtol=2e-2)


@pytest.mark.parametrize('dtype', [None, 'float32', 'bfloat16'])
def test_a_step_computes_in_the_dtype(monkeypatch, dtype):
  programs = []

  def spy(method, batch):
    state = summary.abstract_state(method, None, batch)
    programs.append(jax.jit(method.step).lower(state, batch).as_text())
    return harness.stepper(method, batch)

  monkeypatch.setattr(adapt, 'stepper', spy)
  told = {} if dtype is None else {'dtype': dtype}
  settings = steps.Settings(batch_size=BATCH, peers=(), **told)
  with jax.numpy_dtype_promotion('standard'):  # flax's norms mix their dtypes
    (ours,) = adapt.adapted('cnn', 'dann', settings).values()
  assert np.isfinite(ours.run()['loss'])
  products = re.findall(r'dot_general.*|convolution.*', programs[0])
  assert products and any('bf16' in p for p in products) == (dtype == 'bfloat16')
  assert ('bf16' in programs[0]) == (dtype == 'bfloat16')  # on a CPU, by default not


@pytest.mark.torch
@pytest.mark.parametrize('dtype', [None, 'float32', 'bfloat16'])
def test_the_twins_products_are_of_the_dtype(twins, dtype):
  torch = oracles.torch()
  square = torch.ones(4, 4, device=twins.device())
  with twins.mixed(dtype):
    found = (square @ square).dtype
  in_half = twins.device() == 'cuda' if dtype is None else dtype == 'bfloat16'
  assert found == (torch.bfloat16 if in_half else torch.float32)


@pytest.mark.torch
@pytest.mark.parametrize('name', adapt.METHODS)
def test_the_twin_adapts_alike(twins, name, monkeypatch):
  """Moves each tensor as far, in float64, in which small gradients count too."""
  torch_adapt = importlib.import_module('benchmarks.torch_adapt')
  arrays = steps.draw(BATCH, 16, 10, domains=2)
  arrays = {k: x.astype(np.float64 if x.ndim > 1 else int) for k, x in arrays.items()}
  source = {k: arrays[k] for k in ('image', 'label')}
  batch = {'source': source, 'target': {'image': arrays['target']}}
  options = {'strength': adapt.STRENGTH} if name != 'mcd' else {}
  if name == 'cdan':  # LeNet and ResNet-50 are wide enough for the map, this is not
    options |= {'widest': 1, 'random_width': adapt.MAP_WIDTH}
  model = models.create('cnn', 10, dtype=np.float64)
  method = adaptation.create(name, model, steps.optimizer(), **options)
  # A strength is a float32 number.
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
    state = gradients.as_float64(method.init(jax.random.key(0), None, batch))
    layers, random_map = adapted_layers(state.params)
    monkeypatch.setattr(oracles.torch(), 'randn', lambda *_, device: random_map.pop(0))
    given = 'cnn', name, 64, 10, adapt.STRENGTH, adapt.MAP_WIDTH
    step, modules = torch_adapt.adaptation(*given)
    assert not random_map
    cnn, *others = (module.double() for module in modules)
    parts = [*cnn.convs, *cnn.norms, *others]
    copy_into(parts, layers)
    run, theirs = jax.jit(method.step), twins.placed_batch(arrays)
    for _ in range(2):  # whose second has momentum
      state, metrics = run(state, batch)
      np.testing.assert_allclose(float(step(*theirs)), metrics['loss'], rtol=1e-6)
    after, _ = adapted_layers(state.params)
  found = [layer for module in parts for layer in layers_of(module)]
  for layer, start, ours in zip(found, layers, after, strict=True):
    moved = {k: in_torch(ours[k]) - in_torch(start[k]) for k in ours}
    for k, wanted in moved.items():
      theirs = layer.bias if k == 'bias' else layer.weight
      got = theirs.detach().numpy() - in_torch(start[k])
      np.testing.assert_allclose(got, wanted, 1e-4, 1e-5 * np.abs(wanted).max())


def adapted_layers(params):
  """Our layers in the twin's order, and CDAN's map as torch's matrices."""
  stages = [stage for _, stage in sorted(params['backbone'].items())]
  parts = ('discriminator', 'second_head')
  others = [params['head'], *(params[k] for k in parts if k in params)]
  return (
    [stage[k] for k in ('conv', 'norm') for stage in stages]
    + [layer for part in others for _, layer in sorted(part.items())],
    [
      oracles.torch().tensor(np.asarray(params['random_map'][k]))
      for k in ('features', 'predictions')
      if 'random_map' in params
    ],
  )


@pytest.mark.torch
def test_the_twin_is_our_lenet():
  torch, model = oracles.torch(), models.create('lenet', 10)
  torch_adapt = importlib.import_module('benchmarks.torch_adapt')
  images = np.random.default_rng(0).random((4, 28, 28, 3), np.float32)
  variables = model.init(jax.random.key(0), images)
  params = jax.device_get(variables['params'])
  backbone, head = torch_adapt.LeNet().eval(), torch.nn.Linear(500, 10)
  stages, dense = params['backbone'], dict(params['backbone']['hidden']['dense'])
  kernel = dense['kernel'].reshape(4, 4, 50, 500).transpose(2, 0, 1, 3)
  dense['kernel'] = kernel.reshape(800, 500)  # torch flattens channels first
  convs = [stages[name]['conv'] for name in ('stage1', 'stage2')]
  copy_into([backbone, head], [*convs, dense, params['head']['classifier']])
  wanted = model.apply(variables, images)['logits']
  given = head(backbone(torch.tensor(images.transpose(0, 3, 1, 2))))
  np.testing.assert_allclose(given.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_facts_of_a_step_in_torch(twins):
  """The peak of a known step: two layers' activations, gradients and momentum."""
  torch = oracles.torch()
  layers = torch.nn.Linear(256, 512, bias=False), torch.nn.Linear(512, 1, bias=False)
  optimizer = twins.sgd(*layers)
  x = torch.zeros(1024, 256)

  def run():
    optimizer.zero_grad(set_to_none=True)
    layers[1](torch.relu(layers[0](x))).sum().backward()
    optimizer.step()

  found = twins.facts(run, layers, [x])['memory_bytes']
  kernel, hidden = 4 * 256 * 512, 4 * 1024 * 512
  # At the peak, batch, weights, momentum, two activations; or one and the gradients.
  assert x.nbytes + 2 * kernel + 2 * hidden < found
  assert found < x.nbytes + 3 * kernel + 3.1 * hidden


def test_a_peer_that_fails_spoils_nothing(monkeypatch):
  if steps.torch is None:
    monkeypatch.setattr(steps, 'torch', True)

  def fail():
    raise RuntimeError('no such processor\nmore')

  assert steps.attempt(fail) == 'RuntimeError: no such processor'
  monkeypatch.setattr(steps, 'torch', None)
  assert steps.attempt(fail) == 'PyTorch is not installed'


def test_features_are_those_of_the_model():
  alone = steps.Settings(batch_size=2, pixels=32, peers=())
  (ours,) = steps.supervised('squeezenet1_1', 'features', alone).values()
  assert ours.run().shape == (2, 512)
  assert ours.facts['flops'] > 0 and ours.facts['compile_seconds'] > 0


def test_flops_are_the_networks_own():
  counted = steps.Contender(lambda: None, {'flops': 1.0})
  found = steps.with_flops(counted, 'resnet50', 'fine_tune', 224, 8)
  assert found.facts['flops'] == 3 * 8 * 2 * 4089e6
  assert steps.with_flops(counted, 'resnet50', 'lora', 224, 8) == counted
  assert steps.with_flops(counted, 'resnet50', 'fine_tune', 64, 8) == counted
