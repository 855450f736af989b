"""What every architecture shares: the input spec, the classifier, the linear head."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a model expects of its input, and how it is made.

  Attributes:
    input_size: height and width of the images that it was published with, pixels.
    resize: length of the shorter side before the centre crop of `input_size`.
    mean, std: per channel, of images in [0, 1]; applied inside the model.
    channels: order of the input's channels.
    stages: names of the backbone's stages, bottom to top.
    feature_dim: D of the 'features' endpoint.
    weights: sources that `tljax.weights.load` converts for this model.
  """

  input_size: int
  resize: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  stages: tuple[str, ...]
  feature_dim: int
  channels: str = 'RGB'
  weights: tuple[str, ...] = ()


class Linear(nn.Module):
  """Linear head on the pooled features."""

  num_classes: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, outputs, train=False):
    del train
    dense = nn.Dense(self.num_classes, kernel_init=self.kernel_init, name='dense')
    return dense(outputs['features'])


class Classifier(nn.Module):
  """A backbone, a head, and the normalisation that the backbone's weights expect.

  Attributes:
    backbone: `(normalised images, train) -> outputs by endpoint`, among them
      'features' (N, D).
    head: `(outputs, train) -> logits` (N, K). Replace it for another task with
      `model.clone(head=Linear(num_classes))`.
    spec: mean and std of the normalisation.
  """

  backbone: nn.Module
  head: nn.Module
  spec: Spec

  def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """Maps images (N, H, W, C), float32 in [0, 1], to outputs by endpoint."""
    outputs = self.embed(images, train=train)
    return {**outputs, 'logits': self.head(outputs, train=train)}

  def embed(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    """As `__call__`, but without the head and its logits."""
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean = jnp.asarray(self.spec.mean, images.dtype).reshape(shape)
    std = jnp.asarray(self.spec.std, images.dtype).reshape(shape)
    return self.backbone((images - mean) / std, train=train)
