"""Pretrained kernels for another number of input channels."""

from collections.abc import Mapping

import numpy as np

from tljax.errors import InputError


def in_channels(
  leaves: Mapping[str, np.ndarray], stem: str, channels: int, order: str = 'RGB'
) -> dict[str, np.ndarray]:
  """Adapts the first convolution, as timm does (`adapt_input_conv`).

  One channel gets the sum of the three kernels, so that a grey image gives what it gave
  as RGB, up to a normalisation that differs by colour (and not of BiT, which
  standardises its kernels); other numbers repeat the three, from red on, and scale them
  to the same sum.

  Args:
    leaves: by path.
    stem: the lowest stage's name, in which the convolution is.
    channels: of the new input.
    order: of the three channels, 'RGB' or 'BGR'.

  Raises:
    InputError: no kernel, or more than one, of the stage has three input channels.
  """
  first = [
    path
    for path, leaf in leaves.items()
    if path.startswith(f'backbone/{stem}/') and leaf.ndim == 4 and leaf.shape[2] == 3
  ]
  if len(first) != 1:
    raise InputError(
      f'in_channels={channels}: stage {stem!r} has {len(first)} convolutions of three '
      'channels; adapt the kernel yourself'
    )
  kernel = leaves[first[0]][:, :, :: -1 if order == 'BGR' else 1]
  if channels == 1:
    adapted = kernel.sum(2, keepdims=True)
  else:
    repeats = -(-channels // 3)
    adapted = np.tile(kernel, (1, 1, repeats, 1))[:, :, :channels] * (3 / channels)
  return {**leaves, first[0]: adapted.astype(np.float32)}
