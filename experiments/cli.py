"""What every script's command line has: its common flags, and errors of one line."""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Collection
from typing import Literal

import flax.linen as nn
import jax
import optax
import tyro

from experiments.machine import Machine
from tljax import data, models, weights
from tljax.data import augment, batches, randaugment
from tljax.data.augment import to_float
from tljax.data.dataset import Dataset, stratified
from tljax.errors import InputError, Preempted
from tljax.finetuning.co_tuning import learn_relationship
from tljax.inference import in_batches
from tljax.method import Variables
from tljax.run import Run

Augment = Literal['none', 'flip', 'invert_contrast', 'crop', 'randaugment']


_STYLE = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)  # of flags
_NO_MATTER = ('out', 'resume', 'workers', 'cache', 'remat', 'machine')  # to the result


@dataclasses.dataclass(kw_only=True)
class Flags:
  """Flags that mean the same in every script."""

  out: pathlib.Path
  """Run folder: records, report, checkpoints."""
  seed: int = 0
  """First seed; further ones count up from it."""
  seeds: int = 3
  """Number of seeds, for mean and deviation."""
  batch_size: int = 32
  """Examples in a batch, of each domain."""
  resume: bool = False
  """Go on with the run that --out holds."""
  machine: tyro.conf.OmitArgPrefixes[Machine] = dataclasses.field(
    default_factory=Machine
  )

  def __post_init__(self):
    if self.seeds < 1 or self.seed < 0:
      raise InputError(
        f'--seeds is {self.seeds}, --seed {self.seed}; ask for 1 seed or more, from 0'
      )

  def seed_range(self) -> range:
    """The seeds of the run."""
    return range(self.seed, self.seed + self.seeds)

  def open_run(self, without: tuple[str, ...] = (), **facts) -> Run:
    """Opens the run folder; `facts` join the flags in its configuration."""
    config = {k: _plain(v) for k, v in dataclasses.asdict(self).items()}
    config = {k: v for k, v in config.items() if k not in (*_NO_MATTER, *without)}
    module = sys.modules[type(self).__module__]
    config['script'] = pathlib.Path(getattr(module, '__file__', '')).stem
    return Run.open(self.out, {**config, **facts}, resume=self.resume)


def _plain(value):
  return str(value) if isinstance(value, pathlib.Path) else value


@dataclasses.dataclass(kw_only=True)
class ModelFlags(Flags):
  """Flags of the scripts that train a named model."""

  model: str = 'squeezenet1_1'
  """A wrong name lists all."""
  weights: str | None = None
  """A file, or a tag of experiments.models."""
  image_size: int | None = None
  """Height and width; else the model's own."""
  epochs: int = 10
  """Passes over the training set."""
  learning_rate: float = 1e-3
  """Adam's; it falls to 0 along a cosine."""
  classes: tuple[str, ...] = ()
  """The only classes to keep; by default all."""
  val_fraction: float | None = None
  """Held-out share, if no split is; else 0.1."""
  skip_corrupt: bool = False
  """Leave out and count unreadable images."""

  def load_data(
    self, spec: str, *, multi_label: bool = False, rows: bool = False
  ) -> dict[str, Dataset]:
    """Returns the splits of a data set, as the model's weights expect images.

    Raises:
      InputError: examples have several classes, or are rows of numbers and not images,
        and the script takes none such.
    """
    splits = data.load(
      spec,
      self.transform(),
      train_transform=self.train_transform(),
      classes=self.classes,
      validation=self.val_fraction,
      skip_corrupt=self.skip_corrupt,
    )
    if splits['train'].is_multi_label and not multi_label:
      raise InputError(
        f'{spec}: has examples of several classes; finetune and extract take them'
      )
    if splits['train'].images.ndim == 2 and not rows:
      raise InputError(f'{spec}: has rows of numbers; adapt and compare take them')
    return splits

  def transform(self) -> data.Transform:
    """That of the published weights, else the architecture's, at --image-size."""
    rows = {row.tag: row for row in weights.registry.published(self.model)}
    published = rows.get(self.weights, models.spec(self.model))
    size = published.input_size if self.image_size is None else self.image_size
    if size < 1:
      raise InputError(f'--image-size is {size}; choose 1 or more')
    resize = round(published.resize * size / published.input_size)
    return data.Transform(size, resize, published.interpolation)

  def train_transform(self) -> data.Transform:
    """Of training images."""
    return self.transform()

  def load_backbone(self) -> Variables | None:
    """Returns the pretrained backbone that --weights names."""
    return self.weights and weights.load_backbone(self.model, self.weights)

  def build_model(self, num_classes: int) -> models.Classifier:
    """Returns the model with a new linear head."""
    if num_classes < 1:
      raise InputError('the set has targets of a regression; give one with classes')
    head = models.Linear(num_classes)
    if self.weights is not None:
      # From zero, so that the first steps do not shake what was learned elsewhere
      # (BiT, Kolesnikov et al., 2020).
      head = models.Linear(num_classes, kernel_init=nn.initializers.zeros)
    return models.create(self.model, **self.computed()).clone(head=head)

  def computed(self) -> dict:
    """How the model computes, as options of `models.create`."""
    return {}

  def load_source(
    self, options: Collection[str], training: Dataset | None = None
  ) -> dict:
    """Returns what a method's `options` want of the pretrained classifier.

    Args:
      options: names of those that the method has.
      training: examples for a relationship of classes, a fifth of which calibrates it:
        the validation split may be what the network is judged on.
    """
    if 'source_head' not in options or self.weights is None:
      return {}
    variables = weights.load(self.model, self.weights)
    head = variables['params']['head']
    model = models.create(self.model, len(head['classifier']['bias']))
    found = {'source_head': (model.head, head)}
    if 'relationship' in options and training:
      forward = jax.jit(lambda x: model.apply(variables, to_float(x))['logits'])
      arrays = in_batches(forward, training.images, 64), training.labels
      parts = stratified(training.labels, {'train': 0.8, 'held out': 0.2}, seed=0)
      rows = parts['train'], parts['held out']
      if not len(rows[1]):  # of one or two examples a class
        rows = rows[0], rows[0]
      arrays = [array[some] for some in rows for array in arrays]
      found['relationship'] = learn_relationship(*arrays)
    return found

  def load_optimizer(self, steps: int) -> optax.GradientTransformation:
    """Returns Adam along a cosine over `steps`."""
    return optax.adam(optax.cosine_decay_schedule(self.learning_rate, steps))

  def describe(self, splits: dict[str, Dataset], steps: int) -> str:
    """Says what the figures are, for the report page."""
    judged = 'test' if 'test' in splits else 'validation'
    count, classes = len(splits[judged]), len(splits[judged].classes)
    figure = 'Average precision' if splits[judged].is_multi_label else 'Accuracy'
    what = f'{figure} on {count} {judged} images of {classes} classes'
    model = 'MLP' if splits[judged].images.ndim == 2 else self.model
    if not classes:
      what = f'Errors on {count} {judged} examples'
    start = f'weights from {self.weights}' if self.weights else 'no pretrained weights'
    return (
      f'{what}. {model}, {start}, {steps} steps of {self.batch_size} of each '
      'training set, last step judged.'
    )


@dataclasses.dataclass(kw_only=True)
class Few(Flags):
  """The flag of scripts that may take a few labels of one set."""

  shots: int | None = None
  """Labelled images of each class; else all."""

  def few(self, training: Dataset) -> dict[int, Dataset]:
    """By seed, the training examples that --shots leaves."""
    return {
      seed: training if self.shots is None else training.shots(self.shots, seed)
      for seed in self.seed_range()
    }


@dataclasses.dataclass(kw_only=True)
class TrainingFlags(ModelFlags):
  """Flags of the scripts that train on images."""

  augment: Augment = 'flip'
  """Random change of training images; 'crop' flips too, 'randaugment' crops too."""
  workers: int = 0
  """Processes to decode with; 0: threads."""
  remat: bool = False
  """Compute activations again: less memory."""

  def computed(self) -> dict:
    """With --remat, each block's activations again in the backward pass."""
    return {'remat': True} if self.remat else {}

  def train_transform(self) -> data.Transform:
    """Of training images: what an augmentation crops out of."""
    return self.transform().uncropped if self.crops else self.transform()

  def stream(self, dataset: Dataset, seed: int, **options) -> batches.Stream:
    """Batches of training images, augmented; options are of `batches.stream`."""
    change = {
      'flip': augment.flip,
      'invert_contrast': augment.invert_contrast,
      'randaugment': randaugment.rand_augment(),
    }.get(self.augment)
    size = self.transform().size
    crop = augment.RandomResizedCrop(size, flip=0.5) if self.crops else None
    own = {'batch_size': self.batch_size, 'augment': change, 'crop': crop}
    options = {**own, 'workers': self.workers, **options}
    return batches.stream(dataset, seed=seed, **options)

  @property
  def crops(self) -> bool:
    """Whether the augmentation begins with a random resized crop."""
    return self.augment in ('crop', 'randaugment')


def main(job: Callable[[Flags], None], flags: type[Flags]) -> None:
  """Runs `job(flags)`, and exits with one line where it cannot end.

  The status is 2 on bad input, 130 on an interrupt, and on SIGTERM 75, EX_TEMPFAIL of
  sysexits.h: the same command with --resume, elsewhere or later, goes on.
  """

  def preempted(*_):
    raise Preempted

  signal.signal(signal.SIGTERM, preempted)
  try:
    parsed = _parse(flags)
    with getattr(parsed, 'machine', Machine()).at_work():
      job(parsed)
  except InputError as error:
    _exit(2, f'error: {error}')
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    first = str(error).split('\n')[0]
    print(
      'error: another process of the run died, or the network to it; see its log, and '
      f'start all again with --resume ({first})',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)  # an orderly exit would wait for the dead
  except Preempted:
    _exit(Preempted.status, Preempted.line)
  except KeyboardInterrupt:
    _exit(130, 'interrupted; what was done is saved, go on with --resume')


def _parse(flags):
  message = io.StringIO()
  try:
    with contextlib.redirect_stderr(message):
      return tyro.cli(flags, config=_STYLE)
  except SystemExit as stop:
    if stop.code in (None, 0):  # --help
      raise
    # tyro draws a box, whose title says no more than its words do.
    words = re.sub('╭[^╮]*╮|[─-╿]+', ' ', message.getvalue()).split()
    _exit(2, f'error: {" ".join(words)}')


def _exit(status, line):
  print(' '.join(line.split('\n')), file=sys.stderr)
  sys.exit(status)
