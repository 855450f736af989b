"""What the scripts that adapt share: the setting, methods, and what each trains on."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import numpy as np
import optax

from experiments import cli
from tljax import discovery, models, optimizers
from tljax.adaptation import presets
from tljax.adaptation.alignment import Aligned
from tljax.adaptation.rejection import reject
from tljax.data import batches, randaugment
from tljax.data.dataset import Dataset, judging_split, match_classes
from tljax.errors import InputError
from tljax.finetuning import plain
from tljax.measures import scores
from tljax.method import Method
from tljax.models.bottleneck import Bottleneck, Norm, OnFeatures
from tljax.train import Trial

Splits = Mapping[str, Dataset]
_BASELINES = ('source_only', 'source_and_target', 'oracle')


@dataclasses.dataclass(kw_only=True)
class Flags(cli.TrainingFlags):
  """Flags of the scripts that adapt."""

  augment: Literal[cli.Augment, 'fixmatch'] = 'none'
  """Of training images; 'fixmatch' has two views of the target."""
  balanced: bool = False
  """Source batches hold every class alike."""
  setting: Literal['closed', 'partial', 'open'] = 'closed'
  """Target's classes: alike, fewer, others."""
  source_classes: tuple[str, ...] = ()
  """Of the source to keep; by default all."""
  target_classes: tuple[str, ...] = ()
  """Of the target to keep; by default all."""
  target_shots: int = 0
  """Labelled target images of each class."""
  preset: str | None = None
  """Published settings: library, paper, digits."""
  norm: Norm = 'layer'
  """Of the bottleneck; AdaBN wants 'batch'."""

  def match(
    self, sources: Sequence[Splits], target: Splits
  ) -> tuple[list[Splits], Splits]:
    """Returns the domains' splits of the chosen classes, labelled by the sources'."""
    target = _keep(target, self.target_classes, '--target-classes')
    first, *others = (
      _keep(source, self.source_classes, '--source-classes') for source in sources
    )
    others = [match_classes(first, other)[1] for other in others]
    names, unknown = first['train'].classes, self.setting == 'open'
    first, target = match_classes(first, target, self.setting)
    others = [
      {k: part.number_classes(names, unknown=unknown) for k, part in other.items()}
      for other in others
    ]
    return [first, *others], target

  def build_model(self, num_classes: int) -> models.Classifier:
    """Returns the model with a new linear head, which does not start from zero.

    A second head that did so too would never differ from it.
    """
    model = super().build_model(num_classes)
    return model.clone(head=models.Linear(num_classes))

  @property
  def baselines(self) -> tuple[str, ...]:
    """Strategies that train on labelled images alone, to show what a method adds."""
    return ('source_only', *(('source_and_target',) if self.target_shots else ()))

  def adaptation(
    self,
    names: Sequence[str],
    model: nn.Module,
    steps: int,
    strength: float | None = None,
    task_loss: Callable | None = None,
    domains: int = 1,
  ) -> dict[str, Method]:
    """Returns by name methods of adaptation and baselines; see `presets.build`."""
    self._check_preset()
    if 'source_and_target' in names and not self.target_shots:
      raise InputError(
        'source_and_target: give it labels of the target: --target-shots'
      )
    backbone = 'pretrained' if self._is_pretrained(model) else 'scratch'
    backbone = 'none' if isinstance(model, OnFeatures) else backbone
    methods = {}
    for name in names:
      own = self.build_for(name, model)
      if self.preset is not None:
        optimizer = presets.optimizer(self.preset, name, steps, backbone)
        if name not in _BASELINES:
          self._say_what_is_missing(name)
      else:
        # As most published scripts have it: what is pretrained moves at a tenth.
        rates = optimizers.backbone_rate(0.1 if backbone == 'pretrained' else 1.0)
        optimizer = optax.chain(self.load_optimizer(steps), rates)
      if name in _BASELINES:
        method = plain.method(own, optimizer, loss=task_loss)
        method = reject(method) if self.setting == 'open' else method
      else:
        options = strength, task_loss, domains, self.preset
        method = presets.build(name, own, optimizer, steps, *options)
      methods[discovery.label(name)] = method
    return methods

  def _check_preset(self):
    """Refuses flags of one's own that a preset would pass over."""
    if self.preset is None:
      return
    for name in ('learning_rate', 'norm'):
      if getattr(self, name) != getattr(type(self), name):
        flag, own = name.replace('_', '-'), name.removeprefix('learning_')
        joined = f'{self.preset}{"," if ":" in self.preset else ":"}'
        raise InputError(
          f'--{flag}: a preset has its own; change it by --preset '
          f'{joined}{own}={getattr(self, name)}'
        )

  def _say_what_is_missing(self, name):
    for part in name.split('+'):
      if not presets.has(self.preset, part):
        note = f'--preset {self.preset}: it has no {part}, which gets those of DANN'
        print(note, file=sys.stderr)

  def build_for(self, name: str, model: nn.Module) -> nn.Module:
    """Returns the model with the bottleneck and the head that the method `name` has.

    Networks from published weights have a bottleneck, and those on features; others,
    such as a LeNet from scratch, are narrow themselves. A preset has its own say.
    """
    found = presets.Settings(norm=self.norm)
    if self.preset is not None:
      found = presets.settings(self.preset, name)
    on_features = isinstance(model, OnFeatures)  # whose bottleneck is all that it has
    if not (on_features or self._is_pretrained(model) or found.scratch):
      return model
    if found.head is not None:
      model = model.clone(head=found.head(model.head.num_classes))
    if not (on_features or found.width):
      return model
    names = 'norm', 'activation', 'dropout', 'keeps_length'
    shape = {name: getattr(found, name) for name in names}
    bottleneck = Bottleneck(found.width or Bottleneck.width, **shape)
    return model.clone(**{'backbone' if on_features else 'bottleneck': bottleneck})

  def _is_pretrained(self, model):
    return self.weights is not None and isinstance(model, models.Classifier)

  def batches_for(
    self,
    name: str,
    method: Method,
    sources: Sequence[Dataset],
    target: Dataset,
    seed: int,
  ) -> batches.Stream:
    """What a strategy trains on.

    Of a few labelled images of the target, methods that add a loss have a stream of
    their own; to others they are more of the source.

    Args:
      name: 'source_only', 'source_and_target', 'oracle', or of an adaptation.
      method: the strategy's.
      sources: training splits.
      target: training split, of the same classes.
      seed: fixes the order, and what is labelled.
    """
    if self.setting == 'open':  # balanced batches are of the classes that they have
      sources = [source.keep_classes(source.classes[:-1]) for source in sources]
    streams = [self.stream(s, seed, balanced=self.balanced) for s in sources]
    on_source = batches.merge(*streams)
    if name in ('source_only', 'oracle'):
      return on_source if name == 'source_only' else self.stream(target, seed)
    on_target = self.stream(target, seed, **self.of_target(name, len(target)))
    if not self.target_shots:
      return batches.pair(on_source, on_target)
    if len(sources) > 1:
      raise InputError('--target-shots: give one --source, not several')
    few = target.shots(self.target_shots, seed)
    # As many times over as fill a batch, so that each is seen equally often.
    rows = np.tile(np.arange(len(few)), -(-self.batch_size // len(few)))
    labelled = self.stream(few.take(rows), seed)
    if isinstance(method, Aligned):
      return batches.pair(on_source, on_target, labelled)
    both = batches.join(on_source, labelled)
    return both if name == 'source_and_target' else batches.pair(both, on_target)

  def stream(self, dataset: Dataset, seed: int, **options) -> batches.Stream:
    """As of all scripts; of 'fixmatch' the weak view."""
    if dataset.images.ndim == 2 and self.augment != 'none':
      raise InputError(f'--augment {self.augment} changes images; these are features')
    weak = {'augment': randaugment.weak} if self.augment == 'fixmatch' else {}
    return super().stream(dataset, seed, **{**weak, **options})

  def of_target(self, name: str, size: int) -> dict[str, Any]:
    """What the unlabelled batches of a target of so many examples have of their own."""
    options = {}
    if self.augment == 'fixmatch':
      options['augment'] = randaugment.fixmatch()
    if self.preset is not None:
      times = presets.settings(self.preset, name).target_batches
      if times > 1 and times * self.batch_size > size:
        raise InputError(
          f'--preset {self.preset}: {name} takes {times} times --batch-size from the '
          f'target, which has {size} examples; choose one up to {size // times}'
        )
      options['batch_size'] = times * self.batch_size
    return options

  def scores(self, trial: Trial, target: Splits) -> dict[str, float]:
    """Scores of a trial beside its accuracy: those of open sets, in that setting."""
    if self.setting != 'open':
      return {}
    return scores.open_set(trial.logits, judging_split(target).labels)


def _keep(splits, names, flag):
  if not names:
    return splits
  try:
    return {name: part.keep_classes(names) for name, part in splits.items()}
  except InputError as error:
    raise InputError(f'{flag}: {error}') from error
