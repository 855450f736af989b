"""The benchmark in miniature, and its PyTorch twins: they do the same work."""

import json
import re
import signal
import sys

import jax
import numpy as np
import optax
import pytest

from benchmarks import train_step
from experiments import cli

BATCH = 4


@pytest.fixture
def launch(monkeypatch, capsys):
  """Returns `(*argv) -> (status, standard error)`."""
  before = signal.getsignal(signal.SIGTERM)

  def launch(*argv):
    monkeypatch.setattr(sys, 'argv', ['train_step.py', *map(str, argv)])
    status = 0
    try:
      cli.main(train_step.train_step, train_step.Flags)
    except SystemExit as stop:
      status = stop.code
    return status, capsys.readouterr().err

  yield launch
  signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=[False, True], ids=['alone', 'beside'])
def beside_torch(request, monkeypatch):
  """Whether PyTorch is there."""
  if not request.param:
    monkeypatch.setattr(train_step, 'torch', None)
  elif train_step.torch is None:
    pytest.skip('torch is absent')
  return request.param


def test_in_miniature(launch, beside_torch, tmp_path):
  out = tmp_path / 'figures.json'
  flags = ('--cases', 'dann', '--rounds', 3, '--steps', 1, '--batch-size', BATCH)
  assert launch('--out', out, *flags) == (0, '')
  written = json.loads(out.read_text())
  assert written['jax'] == jax.__version__ and written['batch_size'] == BATCH
  (figures,) = written['cases']
  assert figures['case'] == 'dann' and figures['compile_seconds'] > 0
  for name in ('tljax', 'torch', 'ratio'):
    if name == 'tljax' or beside_torch:
      low, median, high = (figures[name][key] for key in ('low', 'median', 'high'))
      assert 0 < low <= median <= high
    else:
      assert figures[name] is None
  assert bool(written['torch']) == beside_torch


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    ((), 'figures.json exists; choose another --out'),
    (('--rounds', 0), '--rounds'),
    (('--batch-size', 0), '--batch-size'),
    (('--cases', 'magic'), 'magic'),
  ],
)
def test_it_refuses_in_one_line_and_keeps_the_file(launch, tmp_path, flags, named):
  out = tmp_path / 'figures.json'
  out.write_text('measured long ago')
  status, line = launch('--out', out if not flags else tmp_path / 'new.json', *flags)
  assert status == 2
  assert re.fullmatch(r'error: .*\n', line) and named in line
  assert [path.read_text() for path in tmp_path.iterdir()] == ['measured long ago']


def test_the_ratio_is_torchs_time_over_ours(monkeypatch):
  seconds = {'tljax': [1.0, 2.0, 4.0], 'torch': [3.0, 4.0, 4.0]}
  for name in ('inputs', 'tljax_step', 'torch_step'):
    monkeypatch.setattr(train_step, name, lambda *args: lambda: None)
  monkeypatch.setattr(train_step, 'torch', True)
  monkeypatch.setattr(train_step.harness, 'alternate', lambda *args: seconds)
  figures = train_step.measure('dann', train_step.Flags())
  assert figures['ratio'] == {'low': 1.5, 'median': 2.0, 'high': 2.5}
  assert figures['tljax']['median'] == 2.0 and figures['torch']['median'] == 4.0


# SqueezeNet's fire modules: their number in torchvision's `features`.
FIRES = dict(
  zip(
    [
      (f'stage{s}', f'fire{i + 1}')
      for s, n in ((2, 2), (3, 2), (4, 4))
      for i in range(n)
    ],
    (3, 4, 6, 7, 9, 10, 11, 12),
    strict=True,
  )
)


def torch_name(case, part, names):
  """The twin's name of one of our leaves, within its part."""
  *modules, leaf = names
  suffix = 'bias' if leaf == 'bias' else 'weight'
  if part == 'head':
    return suffix
  if part == 'discriminator':  # linear layers with a ReLU between two
    return f'{2 * int(modules[0].removeprefix("Dense_"))}.{suffix}'
  if case == 'dann':
    stage = int(modules[0].removeprefix('stage')) - 1
    return f'{modules[1]}s.{stage}.{suffix}'
  if modules[0] == 'stage1':
    return f'features.0.{suffix}'
  return f'features.{FIRES[tuple(modules[:2])]}.{modules[2]}.{suffix}'


def in_torch(case, params):
  """By part, our parameters under the twin's names and in torch's layout."""
  parts = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    part, *names = (key.key for key in path)
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim]
    array = np.ascontiguousarray(np.asarray(leaf).transpose(axes))
    parts.setdefault(part, {})[torch_name(case, part, names)] = array
  return parts


class Twin:
  """The benchmark's own PyTorch step, begun from our parameters."""

  def __init__(self, case, arrays, params, monkeypatch):
    torch = pytest.importorskip('torch')
    from benchmarks import torch_twins

    names = ['backbone', 'head', 'discriminator'][: 3 if case == 'dann' else 2]
    factory = 'dann_step' if case == 'dann' else 'supervised_step'
    make = getattr(torch_twins, factory)
    self.losses = []

    def from_ours(*args):
      self.modules = dict(zip(names, args, strict=False))
      for part, given in in_torch(case, params).items():
        given = {k: torch.from_numpy(v.copy()) for k, v in given.items()}
        told = self.modules[part].load_state_dict(given, strict=False)
        assert not told.unexpected_keys
        wanted = {name for name, _ in self.modules[part].named_parameters()}
        assert wanted == given.keys()
      step = make(*args)
      return lambda *batch: self.losses.append(float(step(*batch)))

    monkeypatch.setattr(torch_twins, factory, from_ours)
    self.step = train_step.torch_step(case, arrays)

  def logits(self, images):
    import torch

    modules = self.modules['backbone'], self.modules['head']
    modes = [module.training for module in modules]
    with torch.no_grad():
      x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
      for module in modules:
        x = module.eval()(x)
    for module, mode in zip(modules, modes, strict=True):
      module.train(mode)
    return x.numpy()

  @property
  def params(self):
    return {
      part: {name: leaf.detach().numpy() for name, leaf in module.named_parameters()}
      for part, module in self.modules.items()
    }


@pytest.mark.torch
@pytest.mark.parametrize(
  ('case', 'descent'),
  [('dann', 'adam'), ('dann', 'sgd'), ('fine_tune', 'sgd'), ('frozen', 'sgd')],
)
def test_the_twin_does_the_same_work(monkeypatch, case, descent):
  """Same parameters in: same logits, losses, and (where Adam hides none) gradients."""
  torch = pytest.importorskip('torch')
  if descent == 'sgd':
    # So large that the changes stand out of the parameters' rounding.
    rate = 1.0 if case == 'fine_tune' else 0.03
    monkeypatch.setattr(optax, 'adam', lambda _: optax.sgd(rate))
    monkeypatch.setattr(
      train_step,
      '_adam',
      lambda *modules: torch.optim.SGD(
        [p for module in modules for p in module.parameters()], rate
      ),
    )
  arrays = train_step.inputs(case, BATCH)
  arrays = {k: v if k == 'label' else v[:, :97, :97] for k, v in arrays.items()}
  batch = source = {'image': arrays['source'], 'label': arrays['label']}
  if case == 'dann':
    batch = {'source': source, 'target': {'image': arrays['target']}}
  method = train_step.tljax_method(case)
  state = method.init(jax.random.key(0), None, batch)
  twin = Twin(case, arrays, state.params, monkeypatch)

  ours = np.asarray(method.predict(state, source['image']))
  scale = ours.std()
  np.testing.assert_allclose(twin.logits(source['image']), ours, atol=1e-4 * scale)

  step, losses = jax.jit(method.step), []
  before = in_torch(case, state.params)
  for _ in range(3):
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
    twin.step()
    if descent == 'sgd' and len(losses) == 1:
      assert_same_change(before, in_torch(case, state.params), twin.params, case)
  np.testing.assert_allclose(twin.losses, losses, rtol=2e-4)
  assert losses[1] != losses[0]


def assert_same_change(before, ours, theirs, case):
  """The changes of a part agree to 1e-2 as a whole, each tensor's to 5e-2.

  Rounding takes a ReLU in a million across its kink; each moves its tensor's gradient
  by 3e-3. And a change is known to a rounding of the parameter, which is of order 1.
  """
  for part, leaves in before.items():
    squares = np.zeros(2)
    for name, leaf in leaves.items():
      mine, other = ours[part][name] - leaf, theirs[part][name] - leaf
      difference, scale = np.linalg.norm(other - mine), np.linalg.norm(mine)
      rounding = np.finfo(np.float32).eps * np.sqrt(leaf.size)
      assert difference <= 5e-2 * scale + rounding, name
      squares += difference**2, scale**2
    assert (squares[1] == 0) == (case == 'frozen' and part == 'backbone')
    assert squares[0] <= 1e-4 * squares[1]
