"""Convolutions that are quick forth and back.

XLA computes the gradient of a convolution's kernel at a tenth of a CPU's speed. As
matrix products for the kernel's positions, of strips of an image so that the slices
stay in the processor's cache, it has most of it; and a 1x1 convolution is a matrix
product. So is a wide one of few channels whose windows, laid side by side, are small,
such as a LeNet's: forth, where XLA needs twelve times as long for three channels, and
back.
A 3x3 convolution of many channels, which most of a VGG's or a ResNet's time goes to, is
Winograd's, one with strides is products of some images' windows (`strided`), and a
depthwise one a sum of shifted products, a tenth of XLA's time. Few channels convolved
with strides are blocks of pixels, of more channels, on a GPU; on a CPU forth, where the
kernel is narrow.
Elsewhere, and where TLJAX_XLA_CONVOLUTIONS is set, they are XLA's own.
"""

import contextvars
import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tljax.models import depthwise, folding, products, strided, tiles, winograd
from tljax.models.unfused import BY_XLA, switched_on, unfused
from tljax.models.windows import beside, extent_of, padded, slices

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Rows of a product that fill the cache; channels below which it is of windows, as one
# of few columns is slow, and above which each position of a kernel has its own.
_ROWS, _COLUMNS, _WIDE = 2048, 64, 128
_FEW = 32  # channels below which XLA's gradient of an image is quicker
# Bytes of an image's windows, or of all, up to which they pay, and of those that are
# laid, and kept, at once, by each network that `vmap` maps.
_WINDOWS, _ALL_WINDOWS, _AT_ONCE = 1 << 18, 1 << 24, 1 << 26
_KNOWN = {'lhs_dilation', 'rhs_dilation', 'feature_group_count', 'dimension_numbers'}
_by_xla = contextvars.ContextVar('by_xla', default=BY_XLA)


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
    **options: its others; what flax's convolution does not give, dilations, and groups
      of several channels are left to XLA.

  Returns:
    (N, H', W', features).

  Raises:
    InputError: no window fits.
  """
  groups = options.get('feature_group_count', 1)
  dilations = (options.get(f'{side}_dilation') or () for side in ('lhs', 'rhs'))
  plain = (
    len(x) > 0
    and jnp.issubdtype(x.dtype, jnp.floating)
    and all(options[name] is None for name in options.keys() - _KNOWN)
    and (groups == 1 or groups == x.shape[3] == kernel.shape[3])
    and not any(set(dilation) - {1} for dilation in dilations)
  )
  if not plain:
    return _convolve_by_xla(x, kernel, strides, padding, **options)
  size, strides = kernel.shape[:2], tuple(strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
  extent_of(x.shape, size, strides, padding)  # raises where there is no window
  if _on_gpu() and groups == 1 and _is_stem(kernel.shape, strides):
    blocks = _space_to_depth(x, kernel, strides, padding, multiple=8)
    return _convolve_by_xla(*blocks, (1, 1), 'VALID', **options)
  if not on_cpu():
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


def by_xla():
  """What is traced within is convolved by XLA alone."""
  return switched_on(_by_xla)


class Conv(nn.Conv):
  """flax's convolution by `convolve`, of images; derivatives are by reverse mode."""

  conv_general_dilated: Callable = convolve


def _is_stem(kernel, strides):
  """Whether few channels are convolved with strides, which leaves cores idle."""
  overlap = all(n > stride > 1 for n, stride in zip(kernel, strides, strict=False))
  return overlap and kernel[2] < 8


def _space_to_depth(x, kernel, strides, padding, multiple=1):
  """Images and kernel whose convolution, without strides or padding, is the same.

  A block of pixels is one of more channels, filled with zeros to a multiple.
  """
  extent = extent_of(x.shape, kernel.shape, strides, padding)
  blocks = [-(-n // stride) for n, stride in zip(kernel.shape, strides, strict=False)]
  sizes = [n * stride for n, stride in zip(blocks, strides, strict=True)]
  pads = []
  for axis, (stride, (low, _)) in enumerate(zip(strides, padding, strict=True)):
    needed = (extent[axis] + blocks[axis] - 1) * stride
    pads.append((low, needed - x.shape[1 + axis] - low))
  more = [(0, n - m) for n, m in zip(sizes, kernel.shape, strict=False)]
  kernel = jnp.pad(kernel, [*more, (0, 0), (0, 0)])
  x, kernel = padded(x, pads), jnp.moveaxis(kernel, 3, 0)
  x, kernel = _blocks(x, strides), _blocks(kernel, strides)
  fill = [(0, 0)] * 3 + [(0, -x.shape[3] % multiple)]
  return jnp.pad(x, fill), jnp.moveaxis(jnp.pad(kernel, fill), 0, 3)


def _blocks(x, size):
  """(N, H, W, C) as blocks of pixels that do not overlap: (N, h, w, their numbers)."""
  (height, width), (n, h, w, c) = size, x.shape
  h, w = h // height, w // width
  x = x[:, : h * height, : w * width].reshape(n, h, height, w, width, c)
  return x.swapaxes(2, 3).reshape(n, h, w, height * width * c)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, strides, padding):
  if _is_by_windows(x, kernel, strides, padding):
    return _by_windows(x, kernel, strides, padding)[0]
  if winograd.suits(x, kernel, strides):
    return _apart(winograd.convolve(x, kernel, padding))
  if strided.suits(kernel, strides):
    return strided.convolve(x, kernel, strides, padding)
  if _is_stem(kernel.shape, strides) and not folding.suits(kernel):
    blocks = _space_to_depth(x, kernel, strides, padding)
    return _convolve_by_xla(*blocks, (1, 1), 'VALID')
  return _convolve_by_xla(x, kernel, strides, padding)


def _is_by_windows(x, kernel, strides, padding):
  extent = extent_of(x.shape, kernel.shape, strides, padding)
  return folding.suits(kernel) and _small_windows(x, kernel, extent)


def _by_windows(x, kernel, strides, padding):
  """What a convolution gives, and its windows if they are few enough to be kept."""
  extent, features = extent_of(x.shape, kernel.shape, strides, padding), kernel.shape[3]
  form = folding.form(kernel, extent, strides, padding)
  kernel = form.kernel(kernel)

  def windows_of(x):
    x = form.images(x)
    fewer = extent_of(x.shape, kernel.shape, form.strides, ((0, 0), (0, 0)))
    return beside(x, kernel.shape, form.strides, fewer)

  def multiply(windows):
    y = products.product(windows, kernel.reshape(-1, kernel.shape[3]))
    return y.reshape(len(y), *extent, features)

  some = _images_at_once(jax.eval_shape(windows_of, x))
  if some < len(x):
    return tiles.over_images(lambda x: multiply(windows_of(x)), x, some), None
  windows = unfused(windows_of)(x)
  return multiply(windows), windows


def _convolve_by_xla(x, kernel, strides, padding, **options):
  options['dimension_numbers'] = _DIMENSIONS
  return _apart(lax.conv_general_dilated(x, kernel, strides, padding, **options))


def _apart(x):
  """What a convolution gives on a CPU, which XLA is not to compute with what follows.

  YNNPACK, given convolutions and a sum over what they give as one kernel, leaves
  numbers unwritten there (jaxlib 0.12.0, bfloat16).
  """
  return lax.optimization_barrier(x) if on_cpu() else x


def _small_windows(x, kernel, extent):
  """Whether windows pay: by the bytes of an image's, or of all."""
  size = math.prod(extent) * math.prod(kernel.shape[:3]) * x.dtype.itemsize
  alone = jax.device_count() == 1 and size <= _WINDOWS
  return alone or len(x) * size <= _ALL_WINDOWS


def _images_at_once(windows):
  """Of how many images windows are laid at once, for memory's sake."""
  return max(1, _AT_ONCE // (math.prod(windows.shape[1:]) * windows.dtype.itemsize))


def _forward(x, kernel, strides, padding):
  if _is_by_windows(x, kernel, strides, padding):
    y, windows = _by_windows(x, kernel, strides, padding)
    if windows is not None:
      return y, (x, kernel, windows)
  # Not what it calls, whose second derivatives would be XLA's.
  return _convolve(x, kernel, strides, padding), (x, kernel, None)


def _backward(strides, padding, residuals, grad):
  x, kernel, windows = residuals
  if winograd.suits(x, kernel, strides):
    x_grad = winograd.image_gradient(grad, kernel, padding)
    return x_grad, winograd.kernel_gradient(x, grad, padding)
  if strided.suits(kernel, strides):
    x_grad = strided.image_gradient(grad, kernel, strides, padding, x.shape[1:3])
    return x_grad, strided.kernel_gradient(x, grad, kernel, strides, padding)
  extent = grad.shape[1:3]
  form = folding.form(kernel, extent, strides, padding)
  # Of few channels, and by neighbouring windows, XLA is quicker.
  pays = folding.suits(kernel) or kernel.shape[2] >= _FEW or max(strides) > 1
  if pays and _small_windows(x, kernel, extent):
    x_grad = _image_gradient(x, grad, kernel, form)
  else:
    _, pull = jax.vjp(lambda x: _convolve_by_xla(x, kernel, strides, padding), x)
    x_grad = _apart(*pull(grad))
  return x_grad, _kernel_gradient(x, windows, grad, kernel, form)


_convolve.defvjp(_forward, _backward)


def _image_gradient(x, grad, kernel, form):
  """Adds up, for each position of the kernel, what the pixels that it meets get."""
  kernel = form.kernel(kernel)
  height, width, _, features = kernel.shape
  sides = jax.eval_shape(form.images, x).shape[1:3]

  def windows(grad):
    return lax.dot_general(
      form.results(grad),
      kernel.reshape(-1, features),
      (((3,), (1,)), ((), ())),
      preferred_element_type=products.wide(grad.dtype),
    )

  def place(number, part):
    """Low, high and interior padding of the part, on either axis."""
    for axis, start in enumerate(divmod(number, width)):
      last = start + (part.shape[1 + axis] - 1) * form.strides[axis]
      yield start, sides[axis] - last - 1, form.strides[axis] - 1

  def add_up(grad):
    parts = jnp.split(windows(grad), height * width, -1)
    zero = jnp.zeros((), parts[0].dtype)
    return sum(
      lax.pad(part, zero, [(0, 0, 0), *place(i, part), (0, 0, 0)])
      for i, part in enumerate(parts)
    )

  some = _images_at_once(jax.eval_shape(windows, grad))
  whole = tiles.over_images(unfused(add_up), grad, some)
  images = jax.ShapeDtypeStruct(x.shape, whole.dtype)
  return jax.linear_transpose(form.images, images)(whole)[0].astype(x.dtype)


def _kernel_gradient(x, windows, grad, kernel, form):
  """Sums the outer products of the images' pixels and the gradient's.

  Of all windows, where they were kept, or in tiles, strips of an image or several
  images, whose slices stay in the cache. Where there are few channels, windows are laid
  side by side: a product of few columns is slow.
  """
  sums = jax.ShapeDtypeStruct(kernel.shape, products.wide(grad.dtype))
  height, width, channels, _ = shape = jax.eval_shape(form.kernel, sums).shape

  def by_windows(windows, grad):
    return products.outer(windows, form.results(grad)).reshape(shape)

  def outer(x, grad):
    # Not before: with what gives it XLA would compute it in this order, slowly.
    grad = form.results(grad)
    if channels < _COLUMNS:
      x = beside(x, shape, form.strides, grad.shape[1:3])
      return products.outer(x, grad).reshape(shape)
    if channels > _WIDE:
      parts = slices(x, shape, form.strides, grad.shape[1:3])
    else:
      row = x.shape[1], grad.shape[2]
      x = beside(x, (1, width), (1, form.strides[1]), row)
      parts = slices(x, (height, 1), (form.strides[0], 1), grad.shape[1:3])
    return jnp.stack([products.outer(part, grad) for part in parts]).reshape(shape)

  if windows is None:
    tile = _tile(jax.eval_shape(form.results, grad).shape[:3])
    window = height, form.strides[0]
    total = tiles.sum_over_tiles(outer, form.images(x), grad, tile, window)
  else:
    total = unfused(by_windows)(windows, grad)
  return jax.linear_transpose(form.kernel, sums)(total)[0].astype(kernel.dtype)


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
