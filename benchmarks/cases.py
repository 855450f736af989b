"""The cases: a name, what makes the contenders, and what must hold."""

import dataclasses
import fnmatch
import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from benchmarks import adapt, founding, input, steps, whole
from benchmarks.harness import Bar, Contenders, Rounds, take_turns
from benchmarks.steps import Settings
from tljax.errors import InputError


class Case(NamedTuple):
  """What is measured.

  Attributes:
    make: builds the contenders, with their first compilation.
    is_once: run once, with no warm-up: it takes minutes, or what compiles counts.
  """

  make: Callable[[Settings], Contenders]
  is_once: bool = False


_ADAPTED = [f'{net}/{m}' for net in ('lenet', 'resnet50') for m in adapt.METHODS]
CASES = {
  **{
    f'{network}/{strategy}': Case(
      functools.partial(steps.supervised, network, strategy)
    )
    for network in steps.NETWORKS
    for strategy in steps.STRATEGIES
  },
  **{
    case: Case(functools.partial(adapt.adapted, *case.split('/')))
    for case in ('cnn/dann', *_ADAPTED)
  },
  **{
    f'input/{case}': Case(functools.partial(input.reading, case))
    for case in input.CASES
  },
  'features/32-heads': Case(whole.heads),
  'features/5-seeds': Case(whole.seeds),
  'loop': Case(whole.loop),
  'checkpoint': Case(whole.saving),
  'import': Case(whole.importing),
  'start': Case(whole.starting),
  'founding': Case(founding.few, is_once=True),
  'founding/photographs': Case(founding.many, is_once=True),
  'quickstart': Case(whole.quickstart, is_once=True),
}
# Those of the default run: under ten minutes on two cores.
SHORT = (
  *('vgg16/features', 'vgg16/fine_tune'),
  *('resnet50/features', 'resnet50/head', 'resnet50/fine_tune'),
  *('mobilenet_v2/fine_tune', 'vit_base_patch16_224/lora'),
  *('cnn/dann', 'lenet/dann', 'features/32-heads', 'features/5-seeds'),
  *('input/training', 'loop', 'import'),
)
_EVERYWHERE = {
  'features/32-heads': Bar(4, 'one head', is_cost=True),
  'features/5-seeds': Bar(2, 'one seed', is_cost=True),
  'loop': Bar(1.02, 'bare step', is_cost=True),
  'import': Bar(1.5, 'jax, flax', is_cost=True),
  'founding': Bar(8, 'keras'),
  'founding/photographs': Bar(8, 'keras'),
  'quickstart': Bar(180, None),
}
BARS = {
  'cpu': {
    **{f'{network}/features': Bar(1.0) for network in ('vgg16', 'resnet50')},
    **{f'{network}/head': Bar(1.0) for network in steps.NETWORKS},
    **{f'{network}/fine_tune': Bar(0.9) for network in ('vgg16', 'resnet50')},
    **dict.fromkeys(_ADAPTED, Bar(1.0)),
    **_EVERYWHERE,
  },
  'gpu': {
    'resnet50/fine_tune': Bar(1.0, 'torch.compile'),
    'vit_base_patch16_224/fine_tune': Bar(1.0, 'torch.compile'),
    **dict.fromkeys(_ADAPTED, Bar(1.2, 'torch.compile')),
    **_EVERYWHERE,
  },
}


def choose(patterns: Sequence[str]) -> list[str]:
  """Returns the cases that the patterns match, such as 'vgg16/*'.

  Raises:
    InputError: a pattern matches none.
  """
  for pattern in patterns:
    if not fnmatch.filter(CASES, pattern):
      raise InputError(f'--cases {pattern}: there is no such case; --list has all')
  return [name for name in CASES if any(fnmatch.fnmatch(name, p) for p in patterns)]


def timed(name: str, settings: Settings, seconds: float) -> Rounds:
  """Times a case in this process."""
  # What compiles is timed; only 'start' has a cache, in its own processes.
  jax.config.update('jax_enable_compilation_cache', False)
  case = CASES[name]
  with tempfile.TemporaryDirectory() as scratch:
    settings = dataclasses.replace(settings, scratch=pathlib.Path(scratch))
    return take_turns(case.make(settings), seconds, case.is_once)
