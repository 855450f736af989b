"""How published formats name a model's tensors: tables that are read both ways.

A family lists, for each format, rules from our path to the publisher's name. A
`Module` rule carries a whole layer, whose tensors and their axes the format's
`Convention` knows; a `Tensor` rule carries one leaf with a transform of its own. The
first rule that matches counts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
  """A bijection between their tensors and one of our leaves.

  Attributes:
    load: `(their arrays, our shape) -> our array`.
    store: `our array -> their arrays`.
  """

  load: Callable[[Sequence[np.ndarray], tuple[int, ...]], np.ndarray]
  store: Callable[[np.ndarray], Sequence[np.ndarray]]


def permute(*axes: int) -> Transform:
  """Their axes, in our order."""
  inverse = tuple(int(i) for i in np.argsort(axes))

  def load(arrays, shape):
    # A tensor of another rank is left as it is; its shape is then found wrong.
    (a,) = arrays
    return a.transpose(axes) if a.ndim == len(axes) else a

  return Transform(load, lambda a: [a.transpose(inverse)])


def reshape(*theirs: int) -> Transform:
  """The same numbers in another shape; `theirs` may have one -1."""

  def load(arrays, shape):
    (a,) = arrays
    return a.reshape(shape) if a.size == np.prod(shape) else a

  return Transform(load, lambda a: [a.reshape(theirs)])


def flattened(channels: int, height: int, width: int, *theirs: int) -> Transform:
  """A dense kernel (O, C H W) after a flatten of (C, H, W); ours is (H W C, O).

  Args:
    channels, height, width: C, H, W.
    *theirs: shape of the kernel as they hold it, such as a convolution's (-1, C, H, W).
  """

  def load(arrays, shape):
    (a,) = arrays
    if a.size != np.prod(shape):
      return a
    return a.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(shape)

  def store(a):
    a = a.reshape(height, width, channels, -1)
    return [a.transpose(3, 2, 0, 1).reshape(theirs)]

  return Transform(load, store)


SAME = Transform(lambda arrays, shape: arrays[0], lambda a: [a])
CONV = permute(2, 3, 1, 0)  # OIHW to HWIO
DENSE = permute(1, 0)  # OI to IO
DEPTHWISE = permute(0, 1, 3, 2)  # Keras' (H, W, C, 1) to (H, W, 1, C)


def _load_conv_as_dense(arrays, shape):
  (a,) = arrays
  return a[:, :, 0, 0].T if a.ndim == 4 and a.shape[2:] == (1, 1) else a


# A 1x1 convolution OI11 that we hold as a dense layer IO.
CONV_AS_DENSE = Transform(_load_conv_as_dense, lambda a: [a.T[:, :, None, None]])


class Module(NamedTuple):
  """A layer: a regular expression of our path, and a template of their name."""

  ours: str
  theirs: str
  kernel: Transform | None = None  # where it is not the convention's


class Tensor(NamedTuple):
  """A leaf: a regular expression of our path, and templates of their names."""

  ours: str
  theirs: str | tuple[str, ...]
  transform: Transform = SAME


class Convention(NamedTuple):
  """How a framework names and orders a layer's tensors.

  Attributes:
    separator: between a layer's name and a tensor's.
    leaves: their name by ours; 'norm/bias' is the bias of a layer that has a scale.
    kernels: transform of a kernel, by its rank with us.
    ignored: regular expression of their tensors that carry no parameter.
  """

  separator: str
  leaves: Mapping[str, str]
  kernels: Mapping[int, Transform]
  ignored: str


TORCH = Convention(
  '.',
  {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'norm/bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
  },
  {4: CONV, 2: DENSE},
  r'.*\.num_batches_tracked',
)
KERAS = Convention(
  '/',
  {
    'kernel': 'kernel',
    'scale': 'gamma',
    'bias': 'bias',
    'norm/bias': 'beta',
    'mean': 'moving_mean',
    'var': 'moving_variance',
  },
  {4: SAME, 2: SAME},
  r'(top_level_model_weights|optimizer_weights|_optimizer)/.*',
)
# Google's own: BiT, ViT and Mixer as .npz.
FLAX = Convention(
  '/',
  {'kernel': 'kernel', 'scale': 'scale', 'bias': 'bias', 'norm/bias': 'bias'},
  {4: SAME, 2: SAME},
  r'opt/.*',
)


class Layout(NamedTuple):
  """All of a model's names in one published format."""

  convention: Convention
  rules: tuple[Module | Tensor, ...]
  ignored: str = ''  # further tensors without a place in the model
  export: bool = True  # whether the framework finds the tensors by these names

  def names(
    self, shapes: Mapping[str, tuple[int, ...]]
  ) -> dict[str, tuple[tuple[str, ...], Transform]]:
    """By the path of every leaf, their names and the transform.

    Args:
      shapes: by path, such as 'backbone/stem/conv/kernel' or, for statistics,
        'backbone/stem/norm/mean'.

    Raises:
      LookupError: no rule matches a leaf; a mistake of the table.
    """
    return {path: self._entry(path, shapes) for path in shapes}

  def _entry(self, path, shapes):
    module, leaf = path.rsplit('/', 1)
    for rule in self.rules:
      if isinstance(rule, Tensor):
        match = re.fullmatch(rule.ours, path)
        if match:
          names = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
          return tuple(match.expand(name) for name in names), rule.transform
        continue
      match = re.fullmatch(rule.ours, module)
      if match:
        is_norm = f'{module}/scale' in shapes
        key = f'norm/{leaf}' if is_norm and leaf == 'bias' else leaf
        name = match.expand(rule.theirs) + self.convention.separator
        transform = SAME
        if leaf == 'kernel':
          transform = rule.kernel or self.convention.kernels[len(shapes[path])]
        return (name + self.convention.leaves[key],), transform
    raise LookupError(f'no rule of the layout names {path!r}')

  def is_ignored(self, name: str) -> bool:
    """Whether their tensor carries no parameter of the model."""
    patterns = (self.convention.ignored, self.ignored)
    return any(p and re.fullmatch(p, name) for p in patterns)
