"""What a PyTorch pickle describes, without executing it.

A pickle is a program. This reads its instructions with the standard library's
disassembler and performs those alone that build containers, strings and numbers. What
a state_dict needs beyond them is a short list of names, each of which stands for a
function of this module; nothing is imported or called by a name in the file.
"""

import pickletools
from typing import BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from tljax.weights.lazy import Refusal

# Of one pickle: its tensors' data lie outside of it.
_MAX_BYTES = 64 << 20
_MAX_STEPS = 2 << 20
_MEND = (
  'nothing was executed; with what wrote it, save the state_dict alone: '
  'torch.save(model.state_dict(), path)'
)


class Storage(NamedTuple):
  """A run of `count` numbers that the file names `key`."""

  key: str
  dtype: np.dtype
  count: int


class Tensor(NamedTuple):
  """A view of a storage; offset and strides in elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Opaque:
  """What is no tensor and so of no interest: calling it does nothing."""

  def __call__(self, *_):
    return self


_OPAQUE = Opaque()


def _mapping(pairs=(), *_):
  return {key: value for key, value in pairs if isinstance(key, str)}


def _tensor(
  storage, offset, shape, strides, requires_grad=False, hooks=None, bits=None
):
  numbers = (offset, *shape, *strides)
  if not isinstance(storage, Storage) or not all(isinstance(n, int) for n in numbers):
    raise ValueError('a tensor is not made of a storage and numbers')
  if bits:
    raise Refusal(f'a tensor is to be conjugated or negated first; {_MEND}')
  return Tensor(storage, offset, tuple(shape), tuple(strides))


_STORAGES = {
  'Double': np.float64,
  'Float': np.float32,
  'Half': np.float16,
  'BFloat16': jnp.bfloat16,
  'Long': np.int64,
  'Int': np.int32,
  'Short': np.int16,
  'Char': np.int8,
  'Byte': np.uint8,
  'Bool': np.bool_,
  'ComplexFloat': np.complex64,
  'ComplexDouble': np.complex128,
}
_DTYPES = 'float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool'
# By 'module name'. Classes that a training leaves beside its tensors are opaque.
_GLOBALS = {
  'collections OrderedDict': _mapping,
  'collections defaultdict': lambda *_: {},
  'torch._utils _rebuild_tensor': _tensor,
  'torch._utils _rebuild_tensor_v2': _tensor,
  'torch._utils _rebuild_parameter': lambda tensor, *_: tensor,
  'torch._utils _rebuild_parameter_with_state': lambda tensor, *_: tensor,
  'torch Size': lambda sizes=(): sizes,
  **{f'torch {name}Storage': np.dtype(dtype) for name, dtype in _STORAGES.items()},
  **{f'torch {name}': _OPAQUE for name in ('device', *_DTYPES.split())},
  **{
    name: _OPAQUE
    for name in (
      '_codecs encode',
      'argparse Namespace',
      'builtins dict',
      '__builtin__ dict',
      'builtins set',
      '__builtin__ set',
      'collections Counter',
      'numpy dtype',
      'numpy ndarray',
      'numpy.core.multiarray scalar',
      'numpy._core.multiarray scalar',
      'numpy.core.multiarray _reconstruct',
      'numpy._core.multiarray _reconstruct',
      'numpy.core.numeric _frombuffer',
      'numpy._core.numeric _frombuffer',
    )
  },
}


def _update(target, items):
  """Sets keys to values that follow them. Names alone matter; they are strings."""
  if isinstance(target, dict):
    pairs = zip(items[::2], items[1::2], strict=True)
    target.update((key, value) for key, value in pairs if isinstance(key, str))
  elif target is not _OPAQUE:
    raise ValueError('items are set on what is no dict')


def _extend(target, items):
  if isinstance(target, list):
    target.extend(items)
  elif target is not _OPAQUE:
    raise ValueError('items are appended to what is no list')


class _Machine:
  """Performs a pickle's instructions: a method for each, by its name."""

  def __init__(self):
    self.stack, self.marks, self.memo, self.storages = [], [], {}, {}
    self.passed = 0  # items in the lists that were passed to functions

  def push(self, value):
    self.stack.append(value)

  INT = BININT = BININT1 = BININT2 = LONG = LONG1 = push  # LONG4: of huge numbers alone
  FLOAT = BINFLOAT = UNICODE = push
  STRING = BINSTRING = SHORT_BINSTRING = push
  BINUNICODE = SHORT_BINUNICODE = BINUNICODE8 = push
  BINBYTES = SHORT_BINBYTES = BINBYTES8 = BYTEARRAY8 = push

  def PROTO(self, _):
    pass

  FRAME = STOP = PROTO

  def NONE(self, _):
    self.push(None)

  def NEWTRUE(self, _):
    self.push(True)

  def NEWFALSE(self, _):
    self.push(False)

  # Containers.

  def MARK(self, _):
    self.marks.append(self.stack)
    self.stack = []

  def since_mark(self):
    items, self.stack = self.stack, self.marks.pop()
    return items

  def POP(self, _):
    if self.stack:
      self.stack.pop()
    else:
      self.since_mark()

  def POP_MARK(self, _):
    self.since_mark()

  def DUP(self, _):
    self.push(self.stack[-1])

  def EMPTY_LIST(self, _):
    self.push([])

  def EMPTY_DICT(self, _):
    self.push({})

  def EMPTY_TUPLE(self, _):
    self.push(())

  def EMPTY_SET(self, _):
    self.push(_OPAQUE)

  def LIST(self, _):
    self.push(self.since_mark())

  def TUPLE(self, _):
    self.push(tuple(self.since_mark()))

  def DICT(self, _):
    items = self.since_mark()
    self.push({})
    _update(self.stack[-1], items)

  def FROZENSET(self, _):
    self.since_mark()
    self.push(_OPAQUE)

  def last(self, count):
    items = self.stack[-count:]
    if len(items) < count:
      raise ValueError('the stack has run out')
    del self.stack[-count:]
    return items

  def TUPLE1(self, _):
    self.push(tuple(self.last(1)))

  def TUPLE2(self, _):
    self.push(tuple(self.last(2)))

  def TUPLE3(self, _):
    self.push(tuple(self.last(3)))

  def APPEND(self, _):
    items = self.last(1)
    _extend(self.stack[-1], items)

  def APPENDS(self, _):
    items = self.since_mark()
    _extend(self.stack[-1], items)

  ADDITEMS = APPENDS

  def SETITEM(self, _):
    items = self.last(2)
    _update(self.stack[-1], items)

  def SETITEMS(self, _):
    items = self.since_mark()
    _update(self.stack[-1], items)

  # The memo.

  def PUT(self, index):
    self.memo[index] = self.stack[-1]

  BINPUT = LONG_BINPUT = PUT

  def MEMOIZE(self, _):
    self.PUT(len(self.memo))

  def GET(self, index):
    self.push(self.memo[index])

  BINGET = LONG_BINGET = GET

  # Objects.

  def GLOBAL(self, name):
    if name not in _GLOBALS:
      raise Refusal(
        f'it wants {name.replace(" ", ".", 1)[:80]!r}, which no weights need; {_MEND}'
      )
    self.push(_GLOBALS[name])

  def STACK_GLOBAL(self, _):
    self.GLOBAL(' '.join(self.last(2)))

  def REDUCE(self, _):
    function, arguments = self.last(2)
    if not callable(function) or not isinstance(arguments, tuple):
      raise Refusal(f'it calls what is no function; {_MEND}')
    self.passed += sum(len(a) for a in arguments if isinstance(a, list | tuple | dict))
    self.push(function(*arguments))

  NEWOBJ = REDUCE

  def NEWOBJ_EX(self, _):
    function, _, _ = self.last(3)
    if function is not _OPAQUE:
      raise Refusal(f'it makes an object that no weights need; {_MEND}')
    self.push(_OPAQUE)

  def BUILD(self, _):
    # A state_dict's versions (`_metadata`), or the state of what is opaque.
    self.last(1)
    if not isinstance(self.stack[-1], dict | Opaque):
      raise Refusal(f'it sets the state of what has none; {_MEND}')

  def BINPERSID(self, _):
    (pid,) = self.last(1)
    match pid:
      case ('storage', np.dtype() as dtype, str() as key, _, int() as count, *view):
        if any(view):
          raise Refusal(f'a storage is part of another; {_MEND}')
        storage = Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
          raise ValueError(f'storage {key!r} is of two kinds')
        self.push(storage)
      case _:
        raise Refusal(f'it refers to what is no storage; {_MEND}')


def load(file: BinaryIO) -> tuple[object, dict[str, Storage]]:
  """Reads one pickle, up to its end and no further.

  Args:
    file: at its beginning; in memory or mapped, so that no read exceeds it.

  Returns:
    Containers, strings and numbers, with `Tensor` and `Opaque`; and the storages
    that they name. Of dicts, items whose key is no string are left out.

  Raises:
    Refusal: it wants anything else.
    Exception: it is damaged, in one of many ways.
  """
  machine = _Machine()
  start = file.tell()
  for step, (opcode, argument, position) in enumerate(pickletools.genops(file)):
    # Who passes one list again and again gets a copy for a byte or two.
    size = position - start
    if size > _MAX_BYTES or step > _MAX_STEPS or machine.passed > size:
      raise Refusal(f'it describes more than a state_dict; {_MEND}')
    perform = getattr(machine, opcode.name, None)
    if perform is None:
      raise Refusal(f'it uses {opcode.name}, which no state_dict needs; {_MEND}')
    perform(argument)
  (result,) = machine.stack
  return result, machine.storages
