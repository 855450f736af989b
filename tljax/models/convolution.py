"""Convolutions that are quick forth and back.

XLA computes the gradient of a convolution's kernel at a tenth of a CPU's speed. As
matrix products for the kernel's positions, of strips of an image so that the slices
stay in the processor's cache, it has most of it; and a 1x1 convolution is a matrix
product. So is any whose windows, laid side by side, are few, such as a LeNet's: forth,
where XLA needs eight times as long for three channels, and back, some images at a time;
where a kernel has few features too, for several results in a row at once, as a product
of few columns is slow.
A 3x3 convolution of many channels, which most of a VGG's or a ResNet's time goes to, is
Winograd's, and a depthwise one a sum of shifted products, a tenth of XLA's time. On a
GPU few channels convolved with strides are blocks of pixels, of more channels.
Elsewhere, and where TLJAX_XLA_CONVOLUTIONS is set, they are XLA's own.
"""

import contextlib
import contextvars
import functools
import math
import os
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tljax.models import depthwise, products, tiles, winograd
from tljax.models.windows import extent_of, slices

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Rows of a product that fill the cache, and columns below which a product is slow, or
# can be quicker.
_ROWS, _COLUMNS, _WIDE = 2048, 32, 128
_NARROW = 96  # columns that results in a row may have together
# Bytes of an image's windows, or of all, up to which to lay them side by side pays.
_WINDOWS, _ALL_WINDOWS = 1 << 18, 1 << 24
_by_xla = contextvars.ContextVar(
  'by_xla', default='TLJAX_XLA_CONVOLUTIONS' in os.environ
)


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options,
) -> jax.Array:
  """`lax.conv_general_dilated` of NHWC images.

  Args:
    x: (N, H, W, C).
    kernel: (height, width, C, features).
    strides, padding: as of `lax.conv_general_dilated`.
    **options: its others; dilations, and groups of several channels, are left to XLA.

  Returns:
    (N, H', W', features).
  """
  groups = options.get('feature_group_count', 1)
  dilations = (options.get(f'{side}_dilation') or () for side in ('lhs', 'rhs'))
  plain = (
    (groups == 1 or groups == x.shape[3] == kernel.shape[3])
    and not any(set(dilation) - {1} for dilation in dilations)
    and options.get('precision') is None
  )
  if not plain:
    return _convolve_by_xla(x, kernel, strides, padding, **options)
  size, strides = kernel.shape[:2], tuple(strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
  if not on_cpu():
    if _on_gpu() and groups == 1 and _is_stem(kernel.shape, strides):
      x, kernel = _space_to_depth(x, kernel, strides, padding)
      strides, padding = (1, 1), 'VALID'
    return _convolve_by_xla(x, kernel, strides, padding, **options)
  padding = tuple(map(tuple, padding))
  if groups > 1:
    return depthwise.convolve(x, kernel, strides, padding)
  if any(map(any, padding)) or size not in ((1, 1), strides):
    return _convolve(x, kernel, strides, padding)
  if size == (1, 1):
    x = x[:, :: strides[0], :: strides[1]]
  # Windows that do not overlap: a matrix product.
  return products.product(_blocks(x, size), kernel.reshape(-1, kernel.shape[3]))


def on_cpu() -> bool:
  """Whether images are convolved the way that suits a CPU."""
  return not _by_xla.get() and jax.default_backend() == 'cpu'


def _on_gpu() -> bool:
  return not _by_xla.get() and jax.default_backend() == 'gpu'


@contextlib.contextmanager
def by_xla():
  """What is traced within is convolved by XLA alone."""
  token = _by_xla.set(True)
  try:
    yield
  finally:
    _by_xla.reset(token)


class Conv(nn.Conv):
  """flax's convolution by `convolve`."""

  conv_general_dilated: Callable = convolve


def _is_stem(kernel, strides):
  """Whether few channels are convolved with strides, which leaves cores idle."""
  overlap = all(n > stride > 1 for n, stride in zip(kernel, strides, strict=False))
  return overlap and kernel[2] < 8


def _space_to_depth(x, kernel, strides, padding):
  """Images and kernel whose convolution, without strides or padding, is the same.

  A block of pixels is one of more channels, filled with zeros to a multiple of eight.
  """
  extent = extent_of(x.shape, kernel.shape, strides, padding)
  blocks = [-(-n // stride) for n, stride in zip(kernel.shape, strides, strict=False)]
  sizes = [n * stride for n, stride in zip(blocks, strides, strict=True)]
  pads = []
  for axis, (stride, (low, _)) in enumerate(zip(strides, padding, strict=True)):
    needed = (extent[axis] + blocks[axis] - 1) * stride
    pads.append((low, needed - x.shape[1 + axis] - low, 0))
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
  more = [(0, n - m) for n, m in zip(sizes, kernel.shape, strict=False)]
  kernel = jnp.pad(kernel, [*more, (0, 0), (0, 0)])
  x, kernel = _blocks(x, strides), _blocks(jnp.moveaxis(kernel, 3, 0), strides)
  fill = [(0, 0)] * 3 + [(0, -x.shape[3] % 8)]
  return jnp.pad(x, fill), jnp.moveaxis(jnp.pad(kernel, fill), 0, 3)


def _blocks(x, size):
  """(N, H, W, C) as blocks of pixels that do not overlap: (N, h, w, their numbers)."""
  (height, width), (n, h, w, c) = size, x.shape
  h, w = h // height, w // width
  x = x[:, : h * height, : w * width].reshape(n, h, height, w, width, c)
  return x.swapaxes(2, 3).reshape(n, h, w, height * width * c)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, strides, padding):
  if winograd.suits(x, kernel, strides):
    return _apart(winograd.convolve(x, kernel, padding))
  extent = extent_of(x.shape, kernel.shape, strides, padding)
  if kernel.shape[2] < _COLUMNS and _few_windows(x, kernel, extent):
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    beside = _beside(kernel.shape, extent)
    kernel = _repeat(kernel, beside, strides[1])
    matrix = kernel.reshape(-1, kernel.shape[3])
    strides, fewer = (strides[0], strides[1] * beside), (extent[0], extent[1] // beside)

    def convolve_some(x):
      windows = jnp.concatenate(slices(x, kernel.shape, strides, fewer), -1)
      return products.product(windows, matrix).reshape(len(x), *extent, -1)

    return tiles.over_images(convolve_some, x, _ROWS // math.prod(fewer))
  return _convolve_by_xla(x, kernel, strides, padding)


def _convolve_by_xla(x, kernel, strides, padding, **options):
  options['dimension_numbers'] = _DIMENSIONS
  return _apart(lax.conv_general_dilated(x, kernel, strides, padding, **options))


def _apart(x):
  """What a convolution gives on a CPU, which XLA is not to compute with what follows.

  YNNPACK, given convolutions and a sum over what they give as one kernel, leaves
  numbers unwritten there (jaxlib 0.12.0, bfloat16).
  """
  return lax.optimization_barrier(x) if on_cpu() else x


def _few_windows(x, kernel, extent):
  """Whether windows pay: an image's, or all where they are laid at once."""
  size = math.prod(extent) * math.prod(kernel.shape[:3]) * x.dtype.itemsize
  at_a_time = jax.device_count() == 1 and size <= _WINDOWS
  return at_a_time or len(x) * size <= _ALL_WINDOWS


def _beside(kernel, extent):
  """How many results in a row one product is to give, whose columns are few else."""
  return tiles.divisor(extent[1], min(kernel[1], _NARROW // kernel[3]))


def _repeat(kernel, times, stride):
  """The kernel of so many results in a row: their features, one after the other."""
  shifts = [(i * stride, (times - 1 - i) * stride) for i in range(times)]
  copies = [jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts]
  return jnp.concatenate(copies, -1)


def _forward(x, kernel, strides, padding):
  return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, grad):
  x, kernel = residuals
  if winograd.suits(x, kernel, strides):
    x_grad = winograd.image_gradient(grad, kernel, padding)
    return x_grad, winograd.kernel_gradient(x, grad, padding)
  if _few_windows(x, kernel, grad.shape[1:3]):
    x_grad = _image_gradient(grad, kernel, x.shape, strides, padding).astype(x.dtype)
  else:
    _, pull = jax.vjp(lambda x: _convolve_by_xla(x, kernel, strides, padding), x)
    x_grad = _apart(*pull(grad))
  kernel_grad = _kernel_gradient(x, grad, kernel.shape, strides, padding)
  return x_grad, kernel_grad.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


def _image_gradient(grad, kernel, shape, strides, padding):
  """Adds up, for each position of the kernel, what the pixels that it meets get."""
  height, width, channels, features = kernel.shape
  padded = [n + sum(pads) for n, pads in zip(shape[1:3], padding, strict=True)]

  def place(number):
    """Low, high and interior padding of the part, on either axis."""
    for axis, start in enumerate(divmod(number, width)):
      last = start + (grad.shape[1 + axis] - 1) * strides[axis]
      yield start, padded[axis] - last - 1, strides[axis] - 1

  def add_up(grad):
    windows = lax.dot_general(
      grad,
      kernel.reshape(-1, features),
      (((3,), (1,)), ((), ())),
      preferred_element_type=products.wide(grad.dtype),
    )
    parts = enumerate(jnp.split(windows, height * width, -1))
    zero = jnp.zeros((), windows.dtype)
    return sum(
      lax.pad(part, zero, [(0, 0, 0), *place(i), (0, 0, 0)]) for i, part in parts
    )

  whole = tiles.over_images(add_up, grad, _ROWS // math.prod(grad.shape[1:3]))
  (top, _), (left, _) = padding
  return whole[:, top : top + shape[1], left : left + shape[2]]


def _kernel_gradient(x, grad, shape, strides, padding):
  """Sums the outer products of the images' pixels and the gradient's.

  In tiles, strips of an image or several images, whose slices stay in the cache. Where
  pixels have few channels, those beside each other are laid side by side first, and so
  are the gradient's: a product of few columns is slow.
  """
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  few = shape[2] < _COLUMNS
  beside = _beside(shape, grad.shape[1:3]) if few else 1
  kernel = jax.ShapeDtypeStruct(shape, products.wide(grad.dtype))
  repeat = functools.partial(_repeat, times=beside, stride=strides[1])
  height, width, channels, _ = shape = jax.eval_shape(repeat, kernel).shape
  strides = strides[0], strides[1] * beside
  tile = _tile((*grad.shape[:2], grad.shape[2] // beside))

  def outer(x, grad):
    if few:
      # Not before: with what gives it XLA would compute it in this order, slowly.
      grad = grad.reshape(*grad.shape[:2], -1, shape[3])
      x = jnp.concatenate(slices(x, shape, strides, grad.shape[1:3]), -1)
      return products.outer(x, grad).reshape(shape)
    if channels > _WIDE:
      parts = slices(x, shape, strides, grad.shape[1:3])
    else:
      row = x.shape[1], grad.shape[2]
      x = jnp.concatenate(slices(x, (1, width), (1, strides[1]), row), -1)
      parts = slices(x, (height, 1), (strides[0], 1), grad.shape[1:3])
    return jnp.stack([products.outer(part, grad) for part in parts]).reshape(shape)

  def gather(total):
    """Sums what the copies of the kernel got."""
    return jax.linear_transpose(repeat, kernel)(total)[0]

  return gather(tiles.sum_over_tiles(outer, x, grad, tile, (height, strides[0])))


def _tile(shape):
  """How many images, and rows of one, are a tile of (N, H, W)."""
  count, height, width = shape
  if jax.device_count() > 1:  # all at once: a scan would gather what they share
    return count, height
  rows = tiles.divisor(height, _ROWS // width)
  if rows == height:
    return tiles.divisor(count, _ROWS // (height * width)), height
  # A prime number of rows has no strips but those of one.
  return 1, rows if rows * width * 8 >= _ROWS else height
