"""What every architecture shares: the input spec, the options, classifier, heads."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tljax.errors import InputError
from tljax.models.products import Dense
from tljax.models.unfused import once

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of a `Spec`, as Caffe had it, and Keras for the networks that it took from there.
CAFFE = {
  'resize': 224,
  'mean': (103.939 / 255, 116.779 / 255, 123.68 / 255),
  'std': (1 / 255,) * 3,
  'channels': 'BGR',
}


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a model expects of its input, and how it is made.

  Attributes:
    input_size: height and width of the images that it was published with, pixels.
    resize: length of the shorter side before the centre crop of `input_size`.
    mean, std: per channel, in the order of `channels`, of images in [0, 1]; applied
      inside the model.
    stages: names of the backbone's stages, bottom to top; every parameter of the
      backbone is in one of them.
    feature_dim: D of the 'features' endpoint.
    channels: 'RGB', or 'BGR' where the weights expect the reverse; images are RGB
      all the same.
    interpolation: of the resize.
    classes: of the published classifier.
    parameters: number of them, with so many classes.
    multiply_adds: of one forward pass at `input_size`, in millions.
  """

  input_size: int
  resize: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  stages: tuple[str, ...]
  feature_dim: int
  channels: str = 'RGB'
  interpolation: str = 'bilinear'
  classes: int = 1000
  parameters: int | None = None
  multiply_adds: int | None = None

  def with_channels(self, count: int) -> 'Spec':
    """The spec for images of another number of channels: grey has the mean of the
    colours' normalisation, more channels repeat it, from red on.
    """

    def adapt(values):
      values = values[::-1] if self.channels == 'BGR' else values
      if count == 1:
        return (sum(values) / len(values),)
      return tuple(values[i % len(values)] for i in range(count))

    changes = {'mean': adapt(self.mean), 'std': adapt(self.std), 'channels': 'RGB'}
    return dataclasses.replace(self, **changes)


def imagenet(
  stages: Sequence[str],
  feature_dim: int,
  parameters: int,
  multiply_adds: int,
  **changes,
) -> Spec:
  """Returns the spec of a network as torchvision publishes one of ImageNet's images;
  `changes` are what is otherwise.
  """
  spec = Spec(224, 256, IMAGENET_MEAN, IMAGENET_STD, tuple(stages), feature_dim)
  return dataclasses.replace(
    spec, parameters=parameters, multiply_adds=multiply_adds, **changes
  )


@dataclasses.dataclass(frozen=True)
class Options:
  """How a network computes. None of it changes what its parameters mean.

  Attributes:
    dtype: of the computation, such as bfloat16; parameters are float32.
    remat: compute each block's activations again in the backward pass.
    drop_path: rate of stochastic depth (Huang et al., 2016) in the last block; it
      grows linearly from 0. For networks whose paper has it.
    frozen_norm: batch norm uses its stored statistics in training too.
  """

  dtype: Any = jnp.float32
  remat: bool = False
  drop_path: float = 0.0
  frozen_norm: bool = False

  def __post_init__(self):
    if not 0 <= self.drop_path < 1:
      raise InputError(f'drop_path={self.drop_path}: it must be in [0, 1)')

  def block(self, module: type[nn.Module]) -> Callable:
    """Returns what makes a block, called as `(x, train)`, with remat or not.

    Without training what it gives is computed once: XLA would, on a CPU, add up all
    residuals below it for each block that reads it.
    """
    module = nn.remat(module, static_argnums=(2,)) if self.remat else module

    def make(*arguments, **options):
      block = module(*arguments, **options)
      return lambda x, train: block(x, train) if train else once(block(x, train))

    return make

  def drop_path_rates(self, blocks: int) -> list[float]:
    """Rates of stochastic depth of the blocks, bottom to top."""
    return [self.drop_path * i / max(1, blocks - 1) for i in range(blocks)]


class Linear(nn.Module):
  """Linear head on the pooled features."""

  num_classes: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, outputs, train=False):
    del train
    dense = Dense(self.num_classes, kernel_init=self.kernel_init, name='classifier')
    return dense(outputs['features'].astype(jnp.float32))


class Cosine(nn.Module):
  """Linear head without bias on features of unit length, over a temperature.

  Logits are weights @ features / (|features| temperature) (Saito et al., 2019, 3.1).
  """

  num_classes: int
  temperature: float = 0.05

  @nn.compact
  def __call__(self, outputs, train=False):
    del train
    features = outputs['features'].astype(jnp.float32)
    square = jnp.sum(features**2, -1, keepdims=True)
    unit = features * jax.lax.rsqrt(square + 1e-12)  # which is finite at 0 too
    dense = Dense(self.num_classes, use_bias=False, name='classifier')
    return dense(unit) / self.temperature


class DropoutLinear(nn.Module):
  """Dropout, then a linear head on the pooled features."""

  num_classes: int
  rate: float

  @nn.compact
  def __call__(self, outputs, train=False):
    x = nn.Dropout(self.rate)(outputs['features'], deterministic=not train)
    return Dense(self.num_classes, name='classifier')(x.astype(jnp.float32))


class Rescaled(nn.Module):
  """A head of a regression that predicts (y - mean) / std within, and gives y.

  Attributes:
    head: `(outputs, train) -> (N, T)`.
    mean, std: of the T targets in training.
  """

  head: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]

  @property
  def num_classes(self) -> int:
    return self.head.num_classes

  def __call__(self, outputs, train=False):
    standard = self.head(outputs, train=train)
    mean, std = (jnp.asarray(x, standard.dtype)[None] for x in (self.mean, self.std))
    return standard * std + mean


class FlattenMLP(nn.Module):
  """Flatten, dense layers with ReLU and dropout, then a linear layer.

  The default is the founding recipe of feature extraction with VGG16: Flatten, Dense
  512 with ReLU, Dropout 0.5, and the classifier. The map is flattened as Keras
  does, (H, W, C); torchvision flattens (C, H, W), which conversion sets right.
  """

  num_classes: int
  widths: tuple[int, ...] = (512,)
  rate: float = 0.5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, outputs, train=False):
    x = outputs['map']
    x = x.reshape(x.shape[0], -1)
    for i, width in enumerate(self.widths):
      x = nn.relu(Dense(width, dtype=self.dtype, name=f'fc{i + 1}')(x))
      x = nn.Dropout(self.rate)(x, deterministic=not train)
    return Dense(self.num_classes, name='classifier')(x.astype(jnp.float32))


class Classifier(nn.Module):
  """A backbone, a head, and the normalisation that the backbone's weights expect.

  Attributes:
    backbone: `(normalised images, train) -> outputs by endpoint`, among them
      'features' (N, D).
    head: `(outputs, train) -> logits` (N, K). Replace it for another task with
      `model.clone(head=Linear(num_classes))`.
    spec: mean, std and channel order of the normalisation.
    dtype: of the backbone's input.
    bottleneck: `(features, train) -> features`, of the head and all who ask for
      'features'; by default none.
  """

  backbone: nn.Module
  head: nn.Module
  spec: Spec
  dtype: Any = jnp.float32
  bottleneck: nn.Module | None = None

  def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """Maps images (N, H, W, C), float32 in [0, 1], to outputs by endpoint.

    Raises:
      InputError: the images are no floats, or too small.
    """
    outputs = self.embed(images, train=train)
    return {**outputs, 'logits': self.head(outputs, train=train)}

  def embed(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """As `__call__`, but without the head and its logits."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise InputError(f'images of {images.dtype}; they must be floats in [0, 1]')
    if self.spec.channels == 'BGR':
      images = images[..., ::-1]
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean = jnp.asarray(self.spec.mean, images.dtype).reshape(shape)
    std = jnp.asarray(self.spec.std, images.dtype).reshape(shape)
    images = ((images - mean) / std).astype(self.dtype)
    outputs = self.backbone(images, train=train)
    if self.bottleneck is None:
      return outputs
    return {**outputs, 'features': self.bottleneck(outputs['features'], train=train)}
