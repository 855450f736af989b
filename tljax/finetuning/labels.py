"""Which parameters train: rules on their paths, for optax and for the model.

A rule is `(pattern, label)`; a leaf takes the label of the first rule whose regular
expression matches its whole path, such as 'backbone/stage1/conv/kernel'. The label
'frozen' is special: such leaves do not move by a bit, have no optimiser state, and
cost no backward pass; a module that is frozen whole runs in evaluation mode, so its
batch statistics do not move either and its dropout is off. Their kernels can be held in
bfloat16 or int8, a half or a quarter of their memory.
"""

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax

from tljax.errors import InputError
from tljax.finetuning import held
from tljax.finetuning.wrapped import WrappedModel
from tljax.method import Params, Variables, path_name
from tljax.models import Spec

FROZEN = 'frozen'
TRAINED = 'trained'
Rules = Sequence[tuple[str, str]]

# Patterns for `freeze`, which leave to train, beside the head:
# the backbone's biases, those of norms too: BitFit (Ben Zaken et al., 2022);
ALL_BUT_BIASES = r'backbone/(?!.*/bias$).*'
# scale and bias of its norms, which all models call so (Frankle et al., 2021);
ALL_BUT_NORMS = r'backbone/(?!.*norm\d*/\w+$).*'
# both, and so no position, token or scale of a layer.
ALL_BUT_BIASES_AND_NORMS = r'backbone/(?!.*(/bias|norm\d*/\w+)$).*'


def label_params(params: Params, rules: Rules) -> Any:
  """Returns the tree of labels of `params`.

  Raises:
    InputError: no rule matches a leaf, or a rule matches none; it is named.
  """
  used = set()

  def label(path, leaf):
    name = path_name(path)
    found = [rule for rule in rules if re.fullmatch(rule[0], name)]
    if not found:
      raise InputError(f'no label rule matches the parameter {name!r}; add one')
    used.update(pattern for pattern, _ in found)
    # Where one freeze is within another, what the outer one holds is not there.
    return leaf if is_masked(leaf) else found[0][1]

  def is_masked(leaf):
    return isinstance(leaf, optax.MaskedNode)

  labels = jax.tree_util.tree_map_with_path(
    label, params, is_leaf=lambda node: is_masked(node) or held.is_held(node)
  )
  for pattern, _ in rules:
    if pattern not in used and pattern != '.*':
      raise InputError(
        f'the label rule {pattern!r} matches no parameter '
        f'(there are parts {", ".join(sorted(params))}); mend the pattern'
      )
  return labels


def freeze_rules(*patterns: str) -> Rules:
  """Rules that freeze what the patterns match and train all else.

  Raises:
    InputError: a pattern is no regular expression.
  """
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      raise InputError(f'{pattern!r} is no pattern: {error}; mend it') from error
  return [*((pattern, FROZEN) for pattern in patterns), ('.*', TRAINED)]


def up_to(spec: Spec, stage: str) -> str:
  """Returns the pattern of the backbone's stages from the bottom to `stage`.

  `freeze(model, optimizer, up_to(model.spec, 'stage2'))` trains what is above.

  Raises:
    InputError: the model has no such stage.
  """
  _check_stage(spec, stage)
  stages = spec.stages[: spec.stages.index(stage) + 1]
  return f'backbone/({"|".join(stages)})/.*'


def all_but(spec: Spec, stage: str) -> str:
  """Returns the pattern of the backbone's stages other than `stage`.

  `freeze(model, optimizer, all_but(model.spec, 'stage1'), 'head/.*')` is surgical
  fine-tuning (Lee et al., 2023): of images that are corrupted the first stage alone.

  Raises:
    InputError: the model has no such stage.
  """
  _check_stage(spec, stage)
  return f'backbone/(?!{stage}/).*'


def _check_stage(spec, stage):
  if stage not in spec.stages:
    raise InputError(
      f'stage {stage!r} is unknown; choose one of {", ".join(spec.stages)}'
    )


def transform(
  optimizers: Mapping[str, optax.GradientTransformation], rules: Rules
) -> optax.GradientTransformation:
  """Returns the optimiser that moves each leaf by the optimiser of its label.

  Args:
    optimizers: by label; 'frozen' is added here.
    rules: see the module.
  """
  return optax.multi_transform(
    {**optimizers, FROZEN: optax.set_to_zero()},
    lambda params: label_params(params, rules),
  )


def freeze(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *patterns: str,
  dtype: str = 'float32',
) -> tuple['FrozenModel', optax.GradientTransformation]:
  """Returns the model and the optimiser with what the patterns match held fixed.

  Any Method takes the two: `plain.method(*freeze(model, optimizer, 'backbone/.*'))`.

  Args:
    model: the model.
    optimizer: moves all else.
    *patterns: regular expressions of whole paths.
    dtype: that a method's `init` holds the frozen kernels in: 'float32', 'bfloat16' or
      'int8'; see `held`, whose `release` makes ordinary variables of a state's.

  Raises:
    InputError: a pattern is no regular expression, or there is none for the dtype to
      be of, or no such dtype.
  """
  rules = freeze_rules(*patterns)
  held.check(dtype)
  if dtype != 'float32' and not patterns:
    raise InputError(f'what trains is not held in {dtype}; say what to freeze')
  frozen = FrozenModel(model, tuple(patterns), dtype)
  return frozen, transform({TRAINED: optimizer}, rules)


@dataclasses.dataclass(frozen=True)
class FrozenModel(WrappedModel):
  """A model whose parameters that match one of `patterns` take no gradient.

  Attributes:
    patterns: regular expressions of whole paths.
    dtype: of their kernels, where it initialises or holds variables.
  """

  patterns: tuple[str, ...]
  dtype: str = 'float32'

  def init(self, *args, **kwargs) -> Variables:
    """As the model's, with frozen kernels held in the dtype."""
    return self.hold(super().init(*args, **kwargs))

  def hold(self, variables: Variables) -> Variables:
    """Returns the variables, which may lack parts, with frozen kernels in the dtype."""
    variables = super().hold(variables)

    def convert(path, leaf):
      is_kernel = path_name(path).split('/')[-1] == 'kernel'
      return held.hold(leaf, self.dtype) if is_kernel and self._freezes(path) else leaf

    return {**variables, 'params': _map_with_path(convert, variables['params'])}

  def apply(self, variables, *args, **kwargs):
    """As the model's, with frozen modules in evaluation mode."""
    frozen = _map_with_path(lambda path, _: self._freezes(path), variables['params'])
    params = jax.tree.map(
      lambda stop, leaf: jax.lax.stop_gradient(leaf) if stop else leaf,
      frozen,
      variables['params'],
    )
    with contextlib.ExitStack() as stack:
      stack.enter_context(nn.intercept_methods(_evaluate_frozen(frozen)))
      if self.dtype != 'float32':
        stack.enter_context(nn.intercept_methods(held.widen_at_layers))
      return self.model.apply({**variables, 'params': params}, *args, **kwargs)

  def _freezes(self, path):
    return any(re.fullmatch(p, path_name(path)) for p in self.patterns)


def _map_with_path(function, params):
  return jax.tree_util.tree_map_with_path(function, params, is_leaf=held.is_held)


def _evaluate_frozen(frozen):
  """A linen interceptor that takes modules frozen whole out of training mode."""

  def intercept(next_call, args, kwargs, context):
    tree = frozen
    for name in context.module.path:
      tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    leaves = jax.tree.leaves(tree)
    if context.method_name == '__call__' and leaves and all(leaves):
      for flag, value in (('train', False), ('use_running_average', True)):
        if flag in inspect.signature(type(context.module).__call__).parameters:
          if getattr(context.module, flag, None) is not None:
            # Given to the constructor; linen takes it once. The module is this call's.
            object.__setattr__(context.module, flag, None)
          bound = inspect.signature(next_call).bind(*args, **kwargs)
          bound.arguments[flag] = value
          args, kwargs = bound.args, bound.kwargs
    return next_call(*args, **kwargs)

  return intercept
