"""The benchmarked networks and steps in PyTorch, as its users write them.

Nothing here imports JAX: a fresh process of PyTorch alone is timed, too.
"""

import functools
import importlib
import itertools
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

OPTIMIZER = {'lr': 1e-3, 'momentum': 0.9, 'nesterov': True}


@functools.cache
def declare_operators():
  """Lets a torchvision that was built for another torch be imported."""
  try:
    return importlib.import_module('torchvision')
  except RuntimeError:  # it has not its operators, and would register their derivatives
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for operator in ('nms', 'qnms'):
      library.define(
        f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
      )
    return library  # the cache keeps it; it unregisters when it is collected


def hub(name):
  """Returns torchvision or timm."""
  declare_operators()
  return importlib.import_module(name)


def device():
  """Where the steps run."""
  return 'cuda' if torch.cuda.is_available() else 'cpu'


def placed(module, train=True):
  """A module on the device, its kernels in the layout that is quickest there."""
  return module.to(device(), memory_format=torch.channels_last).train(train)


def placed_images(array):
  """(N, H, W, 3) NumPy to (N, 3, H, W) on the device, in channels_last layout."""
  tensor = torch.from_numpy(array).permute(0, 3, 1, 2).to(device())
  return tensor.contiguous(memory_format=torch.channels_last)


def placed_batch(arrays):
  """The tensors that a step takes, of arrays 'image', 'label' and perhaps 'target'."""
  labels = torch.from_numpy(arrays['label']).long().to(device())
  target = [placed_images(arrays['target'])] if 'target' in arrays else []
  return placed_images(arrays['image']), labels, *target


def stepper(step, batch):
  """Returns a function that runs one step; a GPU may go on with it afterwards."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  return functools.partial(step, *batch)


def wait():
  """Waits until the device has done what it was told."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def facts(run, modules, batch):
  """Seconds of the first step, and bytes that a later one holds at its peak.

  Those of PyTorch's allocator; a library's workspace is not among them, as in XLA's
  analysis. The batch, parameters, gradients and the optimiser's state are.
  """
  began = time.perf_counter()
  run()
  wait()
  seconds = time.perf_counter() - began
  for module in modules:
    module.zero_grad(set_to_none=True)  # as if a step were the first to allocate them
  tensors = [*batch, *(t for m in modules for t in (*m.parameters(), *m.buffers()))]
  # And momentum.
  tensors += [p for m in modules for p in m.parameters() if p.requires_grad]
  grown = _growth_on_gpu(run) if batch[0].is_cuda else _growth_on_cpu(run)
  return {
    'compile_seconds': seconds,
    'memory_bytes': grown + sum(tensor.nbytes for tensor in tensors),
  }


def _growth_on_gpu(run):
  """The most that is allocated at a time within a step, beside what was before."""
  before = torch.cuda.memory_allocated()
  torch.cuda.reset_peak_memory_stats()
  run()
  wait()
  return torch.cuda.max_memory_allocated() - before


def _growth_on_cpu(run):
  """Likewise."""
  cpu = [torch.profiler.ProfilerActivity.CPU]
  with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
    run()
  events = profile.profiler.kineto_results.events()
  memory = [event for event in events if event.name() == '[memory]']
  memory.sort(key=lambda event: event.start_ns())
  return max(itertools.accumulate((event.nbytes() for event in memory), initial=0))


class Reverse(torch.autograd.Function):
  """Gradient reversal."""

  @staticmethod
  def forward(ctx, x, strength):
    ctx.strength = strength
    return x.view_as(x)

  @staticmethod
  def backward(ctx, gradient):
    return -ctx.strength * gradient, None


class CNN(nn.Module):
  """tljax's `cnn`: three stages, mean over space; (N, 3, H, W) to (N, 64)."""

  def __init__(self):
    super().__init__()
    widths = (3, 16, 32, 64)
    self.convs = nn.ModuleList(
      nn.Conv2d(i, o, 3, padding=1, bias=False)
      for i, o in zip(widths, widths[1:], strict=False)
    )
    self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])

  def forward(self, x):
    x = (x - 0.5) / 0.5
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
      x = F.relu(norm(conv(x)))
      x = F.max_pool2d(x, 2) if i < 2 else x
    return x.mean((2, 3))


class Backbone(nn.Module):
  """A published network without its classifier: (N, 3, H, W) in [0, 1] to (N, D)."""

  def __init__(self, network):
    super().__init__()
    self.body = _body(network)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    self.register_buffer('mean', torch.tensor(mean)[:, None, None])
    self.register_buffer('std', torch.tensor(std)[:, None, None])

  def forward(self, x):
    x = self.body((x - self.mean) / self.std)
    return x.mean((2, 3)) if x.ndim == 4 else x


def _body(network):
  if network == 'vit_base_patch16_224':
    return hub('timm').create_model(network, num_classes=0)
  made = getattr(hub('torchvision').models, network)()
  if network == 'resnet50':
    made.fc = nn.Identity()
    return made
  return made.features


def top_of(backbone, network):
  """The modules that training the top stage moves; tljax's stages are the same."""
  body = backbone.body
  if network == 'vit_base_patch16_224':
    return [body.blocks[-1], body.norm]
  if network == 'resnet50':
    return [body.layer4]
  return [*body[{'vgg16': 24, 'mobilenet_v2': 17}[network] :]]


class LoRA(nn.Module):
  """A frozen layer beside a product of low rank, as tljax's `lora`."""

  def __init__(self, layer, rank):
    super().__init__()
    self.layer = layer.requires_grad_(False)
    if isinstance(layer, nn.Linear):
      self.a = nn.Linear(layer.in_features, rank, bias=False)
      self.b = nn.Linear(rank, layer.out_features, bias=False)
    else:
      window = layer.kernel_size, layer.stride, layer.padding
      self.a = nn.Conv2d(layer.in_channels, rank, *window, bias=False)
      self.b = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
    nn.init.zeros_(self.b.weight)

  def forward(self, x):
    return self.layer(x) + self.b(self.a(x))


def add_lora(module, rank):
  """Puts `LoRA` around the dense layers and ungrouped convolutions within."""
  for name, child in module.named_children():
    dense = isinstance(child, nn.Linear)
    if dense or isinstance(child, nn.Conv2d) and child.groups == 1:
      setattr(module, name, LoRA(child, rank))
    else:
      add_lora(child, rank)


class LeNet(nn.Module):
  """tljax's `lenet`: (N, 3, 28, 28) to (N, 500)."""

  def __init__(self):
    super().__init__()
    self.layers = nn.Sequential(
      *(nn.Conv2d(3, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
      *(nn.Conv2d(20, 50, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU()),
      *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Dropout(0.5)),
    )

  def forward(self, x):
    return self.layers((x - 0.5) / 0.5)


class Discriminator(nn.Sequential):
  """Two hidden layers and one logit."""

  def __init__(self, inputs, width=1024):
    hidden = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    super().__init__(*hidden, nn.Linear(width, 1))


def sgd(*modules):
  """The optimiser of what is not frozen."""
  parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
  return torch.optim.SGD(parameters, **OPTIMIZER)


def supervised(network, strategy, width, classes, rank, is_compiled=False):
  """Returns a step of the strategy, and its modules; `steps.STRATEGIES` has them all.

  What is frozen is in evaluation mode: its batch statistics do not move.
  """
  backbone, head = Backbone(network), nn.Linear(width, classes)
  if strategy != 'fine_tune':
    backbone.requires_grad_(False)
  if strategy == 'lora':
    add_lora(backbone, rank)
  backbone, head = placed(backbone, strategy == 'fine_tune'), placed(head)
  if strategy == 'top':
    for module in top_of(backbone, network):
      module.requires_grad_(True).train()
  modules = [backbone, head]
  if is_compiled:
    backbone = compiled(backbone)
  if strategy == 'features':
    return features_step(backbone), modules[:1]
  return supervised_step(backbone, head, sgd(*modules), strategy == 'head'), modules


def compiled(module):
  """As in a new process: with other batches before, shapes would be dynamic."""
  torch.compiler.reset()
  return torch.compile(module)


def first_step(network, strategy, width, classes, rank, count, pixels):
  """Runs one step of `supervised`, on images that are drawn."""
  step, _ = supervised(network, strategy, width, classes, rank)
  images, labels = np.zeros((count, pixels, pixels, 3), np.float32), np.zeros(count)
  stepper(step, placed_batch({'image': images, 'label': labels}))()
  wait()


def adaptation(network, name, width, classes, strength, map_width, is_compiled=False):
  """Returns a step of DANN, CDAN or MCD, and its modules."""
  made = {'lenet': LeNet, 'cnn': CNN}.get(network, lambda: Backbone(network))
  backbone, *heads = modules = [placed(made()), placed(nn.Linear(width, classes))]
  if is_compiled:
    backbone = compiled(backbone)
  if name == 'mcd':
    modules.append(placed(nn.Linear(width, classes)))
    heads = modules[1:]
    return mcd_step(backbone, heads, sgd(backbone), sgd(*heads)), modules
  modules.append(placed(Discriminator(map_width if name == 'cdan' else width)))
  parts = backbone, *modules[1:], sgd(*modules), strength
  if name == 'cdan':
    maps = [torch.randn(n, map_width, device=device()) for n in (width, classes)]
    return cdan_step(*parts, maps), modules
  return dann_step(*parts), modules


def _mixed(images):
  """On a GPU in bfloat16, as tljax there."""
  return torch.autocast('cuda', torch.bfloat16, enabled=images.is_cuda)


def features_step(backbone):
  """Returns `(images, labels) -> features`."""

  def step(images, labels):
    del labels
    with torch.inference_mode(), _mixed(images):
      return backbone(images)

  return step


def supervised_step(backbone, head, optimizer, frozen=False):
  """Returns `(images, labels) -> loss`, one step of fine-tuning or of the head."""

  def step(images, labels):
    with _mixed(images):
      with torch.set_grad_enabled(not frozen):
        features = backbone(images)
      loss = F.cross_entropy(head(features), labels)
    return _descend(loss, optimizer)

  return step


def dann_step(backbone, head, discriminator, optimizer, strength):
  """Returns `(source, labels, target) -> loss`, one step of DANN."""

  def step(source, labels, target):
    with _mixed(source):
      features = backbone(torch.cat([source, target]))
      task = F.cross_entropy(head(features[: len(source)]), labels)
      scores = discriminator(Reverse.apply(features, strength))[:, 0]
      loss = task + _domain_loss(scores, len(source))
    return _descend(loss, optimizer)

  return step


def cdan_step(backbone, head, discriminator, optimizer, strength, random_map):
  """Returns `(source, labels, target) -> loss`, one step of CDAN.

  The random map is two matrices, of the features and of the predictions.
  """

  def step(source, labels, target):
    with _mixed(source):
      features = backbone(torch.cat([source, target]))
      logits = head(features)
      task = F.cross_entropy(logits[: len(source)], labels)
      predictions = logits.detach().softmax(1)
      features = Reverse.apply(features, strength)
      joint = (features @ random_map[0]) * (predictions @ random_map[1])
      scores = discriminator(joint / joint.shape[1] ** 0.5)[:, 0]
      loss = task + _domain_loss(scores, len(source))
    return _descend(loss, optimizer)

  return step


def mcd_step(backbone, heads, below, above, generator_steps=4):
  """Returns `(source, labels, target) -> loss`, one step of MCD.

  `below` moves the backbone, `above` both heads.
  """

  def step(source, labels, target):
    images = torch.cat([source, target])

    def losses():
      with _mixed(images):
        features = backbone(images)
        first, second = (head(features) for head in heads)
        split = len(source)
        task = F.cross_entropy(first[:split], labels)
        task = task + F.cross_entropy(second[:split], labels)
        gap = (first[split:].softmax(1) - second[split:].softmax(1)).abs().mean()
        return task, gap

    def descend(loss, *optimizers):
      below.zero_grad(set_to_none=True)
      above.zero_grad(set_to_none=True)
      loss.backward()
      for optimizer in optimizers:
        optimizer.step()
      return loss.detach()

    loss = descend(losses()[0], below, above)
    task, gap = losses()
    descend(task - gap, above)
    for _ in range(generator_steps):
      descend(losses()[1], below)
    return loss

  return step


def _domain_loss(scores, sources):
  """Cross-entropy of the discriminator, the first rows being the source's."""
  domains = torch.ones_like(scores)
  domains[sources:] = 0
  return F.binary_cross_entropy_with_logits(scores, domains)


def _descend(loss, optimizer):
  optimizer.zero_grad(set_to_none=True)
  loss.backward()
  optimizer.step()
  return loss.detach()
