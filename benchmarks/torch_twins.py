"""The benchmarked networks and steps in PyTorch, as its users write them."""

import functools

import torch
from torch import nn
from torch.nn import functional as F


@functools.cache
def declare_operators():
  """Lets a torchvision that was built for another torch be imported."""
  library = torch.library.Library('torchvision', 'FRAGMENT')
  for operator in ('nms', 'qnms'):
    try:
      library.define(
        f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
      )
    except RuntimeError:  # a torchvision with its operators has them already
      pass
  return library  # the cache keeps it; it unregisters when it is collected


def torchvision():
  """Returns the module."""
  declare_operators()
  import torchvision

  return torchvision


def images(array, device):
  """Moves (N, H, W, 3) of the host to (N, 3, H, W) of a device, channels last."""
  tensor = torch.from_numpy(array).permute(0, 3, 1, 2).to(device)
  return tensor.contiguous(memory_format=torch.channels_last)


def stepper(step, batch):
  """Returns a function that runs one step, and waits for it."""

  def run():
    step(*batch)
    if batch[0].is_cuda:
      torch.cuda.synchronize()

  return run


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


class Fire(nn.Module):
  """SqueezeNet's module."""

  def __init__(self, inputs, squeeze, expand):
    super().__init__()
    self.squeeze = nn.Conv2d(inputs, squeeze, 1)
    self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
    self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

  def forward(self, x):
    x = F.relu(self.squeeze(x))
    return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
  """SqueezeNet 1.1 without its classifier, named as torchvision names it."""

  def __init__(self):
    super().__init__()

    def pool():
      return nn.MaxPool2d(3, 2, ceil_mode=True)

    self.features = nn.Sequential(
      *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool()),
      *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
      *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
      *(Fire(256, 48, 192), Fire(384, 48, 192)),
      *(Fire(384, 64, 256), Fire(512, 64, 256)),
    )
    self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406])[:, None, None])
    self.register_buffer('std', torch.tensor([0.229, 0.224, 0.225])[:, None, None])

  def forward(self, x):
    return self.features((x - self.mean) / self.std).mean((2, 3))


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


def resnet50():
  """torchvision's without its classifier: (N, 3, H, W) to (N, 2048)."""
  backbone = torchvision().models.resnet50()
  backbone.fc = nn.Identity()
  return backbone


class Discriminator(nn.Sequential):
  """Two hidden layers and one logit."""

  def __init__(self, inputs, width=1024):
    hidden = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    super().__init__(*hidden, nn.Linear(width, 1))


def supervised_step(backbone, head, optimizer, frozen=False):
  """Returns `(images, labels) -> loss`, one step of fine-tuning or of the head."""

  def step(images, labels):
    with torch.set_grad_enabled(not frozen):
      features = backbone(images)
    loss = F.cross_entropy(head(features), labels)
    return _descend(loss, optimizer)

  return step


def dann_step(backbone, head, discriminator, optimizer, strength):
  """Returns `(source, labels, target) -> loss`, one step of DANN."""

  def step(source, labels, target):
    features = backbone(torch.cat([source, target]))
    task = F.cross_entropy(head(features[: len(source)]), labels)
    scores = discriminator(Reverse.apply(features, strength))[:, 0]
    domains = torch.ones_like(scores)
    domains[len(source) :] = 0
    domain = F.binary_cross_entropy_with_logits(scores, domains)
    return _descend(task + domain, optimizer)

  return step


def cdan_step(backbone, head, discriminator, optimizer, strength, random_map):
  """Returns `(source, labels, target) -> loss`, one step of CDAN.

  The random map is two matrices, of the features and of the predictions.
  """

  def step(source, labels, target):
    features = backbone(torch.cat([source, target]))
    logits = head(features)
    task = F.cross_entropy(logits[: len(source)], labels)
    predictions = logits.detach().softmax(1)
    features = Reverse.apply(features, strength)
    joint = (features @ random_map[0]) * (predictions @ random_map[1])
    scores = discriminator(joint / joint.shape[1] ** 0.5)[:, 0]
    domains = torch.ones_like(scores)
    domains[len(source) :] = 0
    domain = F.binary_cross_entropy_with_logits(scores, domains)
    return _descend(task + domain, optimizer)

  return step


def mcd_step(backbone, heads, below, above, generator_steps=4):
  """Returns `(source, labels, target) -> loss`, one step of MCD.

  `below` moves the backbone, `above` both heads.
  """

  def step(source, labels, target):
    images = torch.cat([source, target])

    def losses():
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


def _descend(loss, optimizer):
  optimizer.zero_grad(set_to_none=True)
  loss.backward()
  optimizer.step()
  return loss.detach()
