"""The networks that domain adaptation trains on digits from scratch: a LeNet (LeCun et
al., 1998) for MNIST and USPS, and DTN for SVHN (both as Long et al., 2018, CDAN).
"""

import flax.linen as nn

from tljax.models.base import Classifier, Linear, Options, Spec
from tljax.models.convolution import Conv
from tljax.models.layers import batch_norm
from tljax.models.layouts import TORCH, Layout, Module, Tensor, flattened
from tljax.models.pooling import max_pool
from tljax.models.products import Dense

SPECS = {
  'lenet': Spec(
    input_size=28,
    resize=28,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    stages=('stage1', 'stage2', 'hidden'),
    feature_dim=500,
    classes=10,
    parameters=432080,
    multiply_adds=3,
  ),
  'dtn': Spec(
    input_size=32,
    resize=32,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    stages=('stage1', 'stage2', 'stage3', 'hidden'),
    feature_dim=512,
    classes=10,
    parameters=3133962,
    multiply_adds=30,
  ),
}


def _drop_channels(x, rate, train):
  return nn.Dropout(rate, broadcast_dims=(1, 2))(x, deterministic=not train)


class LeNetStage(nn.Module):
  """5x5 convolution, dropout of channels, 2x2 max-pool, ReLU."""

  width: int
  rate: float
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    x = Conv(self.width, (5, 5), padding='VALID', dtype=o.dtype, name='conv')(x)
    return nn.relu(max_pool(_drop_channels(x, self.rate, train), 2, 2))


class DTNStage(nn.Module):
  """5x5 convolution of stride 2, batch norm, dropout of channels, ReLU."""

  width: int
  rate: float
  options: Options

  @nn.compact
  def __call__(self, x, train):
    o = self.options
    x = Conv(self.width, (5, 5), 2, padding=2, dtype=o.dtype, name='conv')(x)
    x = batch_norm(o, train, 'norm')(x)
    return nn.relu(_drop_channels(x, self.rate, train))


class Hidden(nn.Module):
  """Flatten, dense layer, batch norm if so, ReLU, dropout."""

  width: int
  has_norm: bool
  options: Options

  @nn.compact
  def __call__(self, x, train):
    x = x.reshape(x.shape[0], -1)
    x = Dense(self.width, dtype=self.options.dtype, name='dense')(x)
    if self.has_norm:
      x = batch_norm(self.options, train, 'norm')(x)
    return nn.Dropout(0.5)(nn.relu(x), deterministic=not train)


class Digits(nn.Module):
  """Stages and a hidden layer, whose output is the features."""

  stage: type[nn.Module]
  widths: tuple[int, ...]
  rates: tuple[float, ...]  # of dropout, by stage
  hidden: int
  options: Options

  @nn.compact
  def __call__(self, x, train=False):
    o, outputs = self.options, {}
    for i, (width, rate) in enumerate(zip(self.widths, self.rates, strict=True)):
      name = f'stage{i + 1}'
      outputs[name] = x = o.block(self.stage)(width, rate, o, name=name)(x, train)
    hidden = Hidden(self.hidden, self.stage is DTNStage, o, name='hidden')(x, train)
    return {**outputs, 'map': x, 'hidden': hidden, 'features': hidden}


def create(name: str, num_classes: int, **options) -> Classifier:
  """Returns the network, for images of its input size alone."""
  options = Options(**options)
  if name == 'lenet':
    backbone = Digits(LeNetStage, (20, 50), (0.0, 0.5), 500, options)
  else:
    backbone = Digits(DTNStage, (64, 128, 256), (0.1, 0.3, 0.5), 512, options)
  return Classifier(backbone, Linear(num_classes), SPECS[name], options.dtype)


def layouts(name: str) -> dict[str, Layout]:
  """Names of the tensors by format: 'tllib' is the Transfer Learning Library's."""
  if name == 'lenet':
    kernel = flattened(50, 4, 4, -1, 50 * 4 * 4)
    rules = [
      Module('backbone/stage1/conv', 'backbone.0'),
      Module('backbone/stage2/conv', 'backbone.3'),
      Tensor('backbone/hidden/dense/kernel', 'backbone.8.weight', kernel),
      Module('backbone/hidden/dense', 'backbone.8'),
    ]
  else:
    kernel = flattened(256, 4, 4, -1, 256 * 4 * 4)
    rules = [
      *(Module(f'backbone/stage{i + 1}/conv', f'backbone.{4 * i}') for i in range(3)),
      *(
        Module(f'backbone/stage{i + 1}/norm', f'backbone.{4 * i + 1}') for i in range(3)
      ),
      Tensor('backbone/hidden/dense/kernel', 'backbone.13.weight', kernel),
      Module('backbone/hidden/dense', 'backbone.13'),
      Module('backbone/hidden/norm', 'backbone.14'),
    ]
  rules.append(Module('head/classifier', 'head'))
  return {'tllib': Layout(TORCH, tuple(rules))}
