"""fit and evaluate: the only loop, for any Method."""

import collections
import contextlib
import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from tljax import sharding, sweep
from tljax.checkpoint import Checkpoints
from tljax.data.augment import to_float
from tljax.data.batches import Stream, read_ahead, stack
from tljax.data.dataset import Dataset
from tljax.data.images import Images
from tljax.errors import InputError
from tljax.measures import scores
from tljax.method import Batch, Method, TrainState, Variables
from tljax.progress import Bar
from tljax.run import Run

# Steps that may be under way on the device: enough to hide the host, few enough that
# waiting batches do not pile up in memory.
_IN_FLIGHT = 8


def fit(
  method: Method,
  state: TrainState,
  batches: Callable[[int], Batch],
  steps: int,
  *,
  evaluate: Callable[[TrainState], dict[str, float]] | None = None,
  every: int | None = None,
  run: Run | None = None,
  name: str = 'train',
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[TrainState, list[dict]]:
  """Trains until `steps` steps are completed.

  Every so often the metrics are fetched, the state is evaluated, a record is logged
  and a checkpoint saved. With `run`, training goes on from the newest checkpoint that
  the folder holds and ends bit-identical to a run that was never cut short. On SIGINT
  or SIGTERM it saves and raises KeyboardInterrupt; it saves too where an image cannot
  be read.

  Args:
    method: what to train; its step is jitted once, and the state donated.
    state: where to start; its arrays are consumed.
    batches: the batch of a step, counted from 0: a pure function.
    steps: total of completed steps at the end.
    evaluate: figures of a state, such as `{'accuracy': 0.9}`.
    every: steps between records; by default a tenth of `steps`.
    run: folder for records and checkpoints; without it nothing is written.
    name: of this training within the run.
    mesh: devices that share each batch; by default all of them.

  Returns:
    The last state, and the records: dicts with 'step', 'seconds' of training since
    step 0, the step's metrics and the evaluated figures.

  Raises:
    InputError: the loss is not finite; the last good state stays saved. Or a batch
      cannot be read.
  """
  mesh = mesh or sharding.data_mesh()
  every = every or max(1, steps // 10)
  whole = sharding.replicated(mesh)
  state = jax.device_put(state, whole)
  step_fn = jax.jit(method.step, donate_argnums=0, out_shardings=whole)
  with contextlib.ExitStack() as stack:
    checkpoints = None
    if run:
      checkpoints = stack.enter_context(Checkpoints(run.checkpoints(name)))
      state = _resume(checkpoints, run, name, state)
    records = run.records(name) if run else []
    bar = stack.enter_context(Bar(name, int(state.step), steps))
    stopped = stack.enter_context(_stop_signals())
    started = time.perf_counter() - (records[-1]['seconds'] if records else 0.0)
    under_way = collections.deque()

    def keep(completed):
      if run and under_way and math.isfinite(under_way[-1]):
        checkpoints.save(completed, state)

    ahead = stack.enter_context(_ahead(batches, int(state.step), steps, mesh))
    for step in range(int(state.step), steps):
      try:
        batch = next(ahead)
      except InputError:
        keep(step)
        raise
      state, metrics = step_fn(state, batch)
      under_way.append(metrics['loss'])
      if len(under_way) > _IN_FLIGHT:
        bar.update(step + 1 - _IN_FLIGHT, under_way.popleft())
      completed = step + 1
      if completed % every == 0 or completed == steps:
        record = {'step': completed, **{k: float(v) for k, v in metrics.items()}}
        if not math.isfinite(record['loss']):
          raise InputError(
            f'{name}: the loss is {record["loss"]} at step {completed}; '
            'lower the learning rate'
          )
        paused = time.perf_counter()
        record['seconds'] = round(paused - started, 3)
        record |= evaluate(state) if evaluate else {}
        records.append(record)
        if run:
          run.log(name, record)
          checkpoints.save(completed, state)
        started += time.perf_counter() - paused
        bar.update(completed, record['loss'])
      if stopped:
        keep(completed)
        raise KeyboardInterrupt
  return state, records


@contextlib.contextmanager
def _ahead(batches, start, stop, mesh):
  """An iterator of the batches, on the devices; a `Stream` is read ahead."""
  if isinstance(batches, Stream):
    with contextlib.closing(read_ahead(batches, start, stop)) as parts:
      yield (
        batches.finish(sharding.shard_batch(part, mesh), np.uint32(step))
        for step, part in enumerate(parts, start)
      )
  else:
    yield (sharding.shard_batch(batches(step), mesh) for step in range(start, stop))


class Trial(NamedTuple):
  """What one training gave.

  Attributes:
    state: the last state; None of what was not trained.
    records: see `fit`.
    logits: (N, K), of the examples that the trial is judged on.
    accuracy: on them, once, at the end; of a regression nan.
  """

  state: TrainState | None
  records: list[dict]
  logits: np.ndarray
  accuracy: float

  @property
  def seconds(self) -> float:
    """Seconds of training, compilation included."""
    return self.records[-1]['seconds']


def trial(
  method: Method,
  batches: Callable[[int], Batch],
  steps: int,
  splits: Mapping[str, Dataset],
  *,
  seed: int,
  variables: Variables | None = None,
  every: int | None = None,
  run: Run | None = None,
  name: str = 'train',
) -> Trial:
  """Initialises, fits and judges a method with one seed.

  The 'validation' split gives the curve, of a regression that of R squared; the 'test'
  split, where there is one, the final accuracy. No choice is made by either.
  """
  logits, validation = predictor(method), splits['validation']

  def evaluate(state):
    outputs, labels = logits(state, validation.images), validation.labels
    if validation.classes:
      return {'validation_accuracy': scores.accuracy(outputs, labels)}
    return {'validation_r2': scores.regression(outputs, labels)['r2']}

  state, records = fit(
    method,
    method.init(jax.random.key(seed), variables, batches(0)),
    batches,
    steps,
    evaluate=evaluate,
    every=every,
    run=run,
    name=f'{name}-{seed}',
  )
  judged = splits.get('test', validation)
  outputs = logits(state, judged.images)
  accuracy = scores.accuracy(outputs, judged.labels) if judged.classes else math.nan
  return Trial(state, records, outputs, accuracy)


def trials_at_once(
  method: Method,
  streams: Mapping[int, Stream],
  steps: int,
  splits: Mapping[str, Dataset],
  *,
  variables: Variables | None = None,
  name: str = 'train',
) -> dict[int, Trial]:
  """As `trial` by seed, each with its batches, trained at once on one device.

  Small networks' steps cost little more for five seeds than for one. A trial's seconds
  are its share of those of all; it has no curve.
  """
  settings = [{'seed': seed} for seed in streams]
  members = sweep.method(lambda: method, settings, own_batches=True)
  stream = stack(list(streams.values()))
  state = members.init(jax.random.key(0), variables, stream(0))
  mesh = sharding.data_mesh(jax.devices()[:1])
  state, (record,) = fit(
    members, state, stream, steps, every=steps, name=name, mesh=mesh
  )
  record['seconds'] /= len(streams)
  judged = splits.get('test', splits['validation'])
  logits = predictor(members)(state, judged.images).swapaxes(0, 1)
  return {
    seed: Trial(
      sweep.member(state, i), [record], one, scores.accuracy(one, judged.labels)
    )
    for i, (seed, one) in enumerate(zip(streams, logits, strict=True))
  }


class Plan(NamedTuple):
  """One training of a comparison.

  Attributes:
    method: what to train.
    batches: see `fit`.
    start: pretrained variables, or the name of an earlier plan to start from; None
      starts from scratch.
  """

  method: Method
  batches: Callable[[int], Batch]
  start: Variables | str | None = None


def compare(
  plans: Mapping[int, Mapping[str, Plan]],
  steps: int,
  splits: Mapping[str, Dataset],
  run: Run | None = None,
) -> dict[str, list[Trial]]:
  """Runs plans by seed and name, all with the same steps and on the same splits.

  Returns:
    By name, a trial a seed.
  """
  trials = collections.defaultdict(list)
  for seed, named in plans.items():
    for name, plan in named.items():
      start = plan.start
      if isinstance(start, str):
        start = trials[start][-1].state.variables
      trials[name].append(
        trial(
          plan.method,
          plan.batches,
          steps,
          splits,
          seed=seed,
          variables=start,
          run=run,
          name=name,
        )
      )
  return dict(trials)


@functools.lru_cache(maxsize=16)
def predictor(
  method: Method, batch_size: int = 256
) -> Callable[[TrainState, np.ndarray], np.ndarray]:
  """Returns `(state, images) -> logits` over a whole set, compiled once.

  Images are (N, H, W, C) uint8, logits (N, K) float32.
  """
  predict = jax.jit(lambda state, images: method.predict(state, to_float(images)))
  return lambda state, images: in_batches(
    functools.partial(predict, state), images, batch_size
  )


def in_batches(
  function: Callable[[np.ndarray], jax.Array],
  array: np.ndarray | Images,
  batch_size: int,
) -> np.ndarray:
  """Returns `function(array)`, computed over batches that all have one shape.

  The padding's results are dropped, so every row counts once and the function is
  compiled once; see `padded_batches`.
  """
  parts = [np.asarray(function(p)) for p in padded_batches(array, batch_size)]
  return np.concatenate(parts)[: len(array)]


def padded_batches(array: np.ndarray | Images, batch_size: int) -> Iterator[np.ndarray]:
  """Yields batches that all have one shape: the last is padded with zeros.

  Images that are decoded as they are used are read ahead.
  """

  def read(i):
    part = array[i * batch_size : (i + 1) * batch_size]
    padding = [(0, batch_size - len(part))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(part, padding)

  count = -(-len(array) // batch_size)
  if isinstance(array, np.ndarray):
    yield from map(read, range(count))
  else:
    with contextlib.closing(read_ahead(Stream(read, None), 0, count)) as ahead:
      yield from ahead


def _resume(checkpoints, run, name, state):
  step = checkpoints.latest_step()
  run.rewind(name, step or 0)
  return state if step is None else checkpoints.restore(like=state)


@contextlib.contextmanager
def _stop_signals():
  """Yields a list that is empty until SIGINT or SIGTERM; a second signal is obeyed.

  An exception in the middle of a step would lose the state, which is donated to it.
  """
  received = []
  if threading.current_thread() is not threading.main_thread():
    yield received
    return
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

  def note(number, _):
    received.append(number)
    signal.signal(number, before[number])

  for number in before:
    signal.signal(number, note)
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
