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
  """A module on the device, its kernels in the layout that is quickest there.

  cuDNN tries its algorithms, as XLA does, and products of float32 are TensorFloat32
  on a GPU, as XLA's are.
  """
  torch.backends.cudnn.benchmark = True
  torch.backends.cuda.matmul.allow_tf32 = True
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


def sgd(*modules):
  """The optimiser of what is not frozen."""
  parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
  return torch.optim.SGD(parameters, **OPTIMIZER)


def supervised(network, strategy, width, classes, rank, dtype=None, is_compiled=False):
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
    backbone = torch.compile(backbone)
  if strategy == 'features':
    return features_step(backbone, dtype), modules[:1]
  parts = backbone, head, sgd(*modules), strategy == 'head', dtype
  return supervised_step(*parts), modules


def first_step(network, strategy, width, classes, rank, count, pixels):
  """Runs one step of `supervised`, on images that are drawn."""
  step, _ = supervised(network, strategy, width, classes, rank)
  images, labels = np.zeros((count, pixels, pixels, 3), np.float32), np.zeros(count)
  stepper(step, placed_batch({'image': images, 'label': labels}))()
  wait()


def mixed(dtype=None):
  """Has products in bfloat16 where that is the dtype, by default on a GPU, as tljax."""
  in_half = torch.cuda.is_available() if dtype is None else dtype == 'bfloat16'
  return torch.autocast(device(), torch.bfloat16, enabled=in_half)


def features_step(backbone, dtype=None):
  """Returns `(images, labels) -> features`."""

  def step(images, labels):
    del labels
    with torch.inference_mode(), mixed(dtype):
      return backbone(images)

  return step


def supervised_step(backbone, head, optimizer, frozen=False, dtype=None):
  """Returns `(images, labels) -> loss`, one step of fine-tuning or of the head."""

  def step(images, labels):
    with mixed(dtype):
      with torch.set_grad_enabled(not frozen):
        features = backbone(images)
      loss = F.cross_entropy(head(features), labels)
    return descend(loss, optimizer)

  return step


def descend(loss, optimizer):
  optimizer.zero_grad(set_to_none=True)
  loss.backward()
  optimizer.step()
  return loss.detach()
