"""The steps of `adapt` in PyTorch, as Transfer-Learning-Library writes them."""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_twins as twins


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


def adaptation(
  network,
  name,
  width,
  classes,
  strength,
  map_width,
  dtype=None,
  is_compiled=False,
):
  """Returns a step of DANN, CDAN or MCD, and its modules."""
  made = {'lenet': LeNet, 'cnn': CNN}.get(network, lambda: twins.Backbone(network))
  backbone, *heads = modules = [
    twins.placed(made()),
    twins.placed(nn.Linear(width, classes)),
  ]
  if is_compiled:
    backbone = torch.compile(backbone)
  if name == 'mcd':
    modules.append(twins.placed(nn.Linear(width, classes)))
    heads = modules[1:]
    optimizers = twins.sgd(backbone), twins.sgd(*heads)
    return mcd_step(backbone, heads, *optimizers, dtype), modules
  modules.append(twins.placed(Discriminator(map_width if name == 'cdan' else width)))
  parts = backbone, *modules[1:], twins.sgd(*modules), strength, dtype
  if name == 'cdan':
    maps = [torch.randn(n, map_width, device=twins.device()) for n in (width, classes)]
    return cdan_step(*parts, maps), modules
  return dann_step(*parts), modules


def dann_step(backbone, head, discriminator, optimizer, strength, dtype=None):
  """Returns `(source, labels, target) -> loss`, one step of DANN."""

  def step(source, labels, target):
    with twins.mixed(dtype):
      features = backbone(torch.cat([source, target]))
      task = F.cross_entropy(head(features[: len(source)]), labels)
      scores = discriminator(Reverse.apply(features, strength))[:, 0]
      loss = task + _domain_loss(scores, len(source))
    return twins.descend(loss, optimizer)

  return step


def cdan_step(backbone, head, discriminator, optimizer, strength, dtype, random_map):
  """Returns `(source, labels, target) -> loss`, one step of CDAN.

  The random map is two matrices, of the features and of the predictions.
  """

  def step(source, labels, target):
    with twins.mixed(dtype):
      features = backbone(torch.cat([source, target]))
      logits = head(features)
      task = F.cross_entropy(logits[: len(source)], labels)
      predictions = logits.detach().softmax(1)
      features = Reverse.apply(features, strength)
      joint = (features @ random_map[0]) * (predictions @ random_map[1])
      scores = discriminator(joint / joint.shape[1] ** 0.5)[:, 0]
      loss = task + _domain_loss(scores, len(source))
    return twins.descend(loss, optimizer)

  return step


def mcd_step(backbone, heads, below, above, dtype=None, generator_steps=4):
  """Returns `(source, labels, target) -> loss`, one step of MCD.

  `below` moves the backbone, `above` both heads.
  """

  def step(source, labels, target):
    images = torch.cat([source, target])

    def losses():
      with twins.mixed(dtype):
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
