"""DELTA: deep learning transfer using feature maps with attention (Li et al., 2019)."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tljax import losses
from tljax.finetuning.regularized import regularize
from tljax.losses import Loss
from tljax.method import Batch, Method, Variables


def method(
  model,
  optimizer: optax.GradientTransformation,
  *,
  strength: float | optax.Schedule = 0.5,
  head_decay: float = 0.01,
  endpoints: Sequence[str] | None = None,
  attention: Mapping[str, jax.Array] | None = None,
  loss: Loss | None = None,
) -> Method:
  """Pulls the feature maps, channel by channel, to those of the pretrained network.

  The pretrained network runs in evaluation mode on the same images (section 3). The
  maps leave the stem and each stage, of a ResNet after residual and ReLU; the
  Transfer Learning Library compares four, of convolutions before norm and residual.

  Args:
    model: outputs by endpoint, among them 'logits'.
    optimizer: moves all parameters.
    strength: of the maps' distance, a number or a schedule of the step. The published
      library takes 0.01 of the sum over a batch of 48, which is near the default.
    head_decay: of half the squared norm of all but the backbone.
    endpoints: whose maps are compared; by default all stages of the model.
    attention: from `channel_attention`; without it all channels weigh the same.
    loss: see `plain.method`.
  """
  names = endpoints or model.spec.stages

  def penalty(params, outputs, start, batch):
    del params
    kept = jax.lax.stop_gradient(model.apply(start, batch['image'], train=False))
    return sum(
      map_distance(outputs[name], kept[name], attention[name] if attention else None)
      for name in names
    )

  return regularize(
    model,
    optimizer,
    penalty,
    strength=strength,
    head_decay=head_decay,
    loss=loss,
    remember=lambda state: state.variables,
  )


def map_distance(
  maps: jax.Array, kept: jax.Array, attention: jax.Array | None = None
) -> jax.Array:
  """Half the squared distance of two feature maps (equation 5), the mean over images.

  Args:
    maps: (N, ..., C) float, of the network that trains.
    kept: the same of the pretrained one.
    attention: (C,) weights of the channels, whose sum is 1; by default 1 / C.

  Returns:
    The mean over images of C / (2 positions) x the sum over channels of
    attention x |difference|^2.
  """
  squares = jnp.mean(jnp.square(maps - kept), tuple(range(maps.ndim - 1)))
  if attention is None:
    return jnp.sum(squares) / 2
  return maps.shape[-1] / 2 * jnp.sum(attention * squares)


def channel_attention(
  model,
  variables: Variables,
  batches: Iterable[Batch],
  endpoints: Sequence[str] | None = None,
  *,
  temperature: float = 5.0,
) -> dict[str, jax.Array]:
  """Weighs channels by how much the loss grows without them (section 3.2).

  Args:
    model: outputs by endpoint; each endpoint is the output of a module of its name.
    variables: pretrained, with a head that was trained on the target's labels while
      the backbone was frozen.
    batches: `{'image', 'label'}`, over which the growth is averaged.
    endpoints: which maps; by default all stages of the model.
    temperature: of the softmax over the standardised growth; the default is the
      published library's.

  Returns:
    By endpoint, (C,) float32 weights whose sum is 1.
  """
  names = endpoints or model.spec.stages
  paths = {('backbone', name) for name in names}

  @jax.jit
  def maps_of(variables, batch):
    def is_endpoint(module, method):
      return module.path in paths and method == '__call__'

    options = {'capture_intermediates': is_endpoint, 'mutable': ['intermediates']}
    _, seen = model.apply(variables, batch['image'], train=False, **options)
    seen = seen['intermediates']['backbone']
    return {name: seen[name]['__call__'][0] for name in names}

  @functools.partial(jax.jit, static_argnums=4)
  def loss_without(variables, batch, maps, channel, name):
    """The loss without a channel of the maps; what is below them XLA leaves out."""
    gone = jax.lax.broadcasted_iota(jnp.int32, maps.shape, maps.ndim - 1) == channel
    with nn.intercept_methods(_put(name, jnp.where(gone, 0, maps))):
      outputs = model.apply(variables, batch['image'], train=False)
    return losses.cross_entropy(outputs['logits'], batch['label'])

  def without_each(variables, batch, maps, name):
    # A call each: in a loop of XLA's a CPU is slow to convolve.
    channels = range(maps.shape[-1])
    return jnp.stack([loss_without(variables, batch, maps, c, name) for c in channels])

  values = {name: [] for name in names}
  for batch in batches:
    for name, maps in maps_of(variables, batch).items():
      values[name].append(without_each(variables, batch, maps, name))
  attention = {}
  for name in names:
    # Of the growth: what the loss is with all channels, standardising takes away.
    mean = jnp.mean(jnp.stack(values[name]), 0)
    standard = (mean - jnp.mean(mean)) / jnp.maximum(jnp.std(mean), 1e-12)
    attention[name] = jax.nn.softmax(standard / temperature)
  return attention


def _put(name, maps):
  """A linen interceptor by which the module `name` gives these maps."""

  def intercept(next_call, args, kwargs, context):
    if (context.module.path, context.method_name) == (('backbone', name), '__call__'):
      return maps
    return next_call(*args, **kwargs)

  return intercept
