"""fit and evaluate: the only loop, for any Method."""

import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax import processes, sharding, sweep, watch
from tljax.checkpoint import Checkpoints
from tljax.data.batches import Stream, read_ahead, stack
from tljax.data.dataset import Dataset, judging_split
from tljax.errors import Diverged, InputError
from tljax.inference import predictor
from tljax.measures import scores, validators
from tljax.method import Batch, Method, TrainState, Variables, all_finite
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
  best: str | None = None,
  is_sound: Callable[[TrainState], jax.Array] = all_finite,
  mesh: jax.sharding.Mesh | None = None,
  profile: tuple[int, int] | None = None,
  steps_per_call: int = 1,
) -> tuple[TrainState, list[dict]]:
  """Trains until `steps` steps are completed.

  Every so often the metrics are fetched, the state is evaluated, a record is logged
  and a checkpoint saved. With `run`, training goes on from the newest checkpoint that
  the folder holds, on whatever mesh it was saved, and on the same mesh ends
  bit-identical to a run that was never cut short. On SIGINT or SIGTERM it saves and
  raises KeyboardInterrupt or Preempted; it saves too where an image cannot be read.

  Args:
    method: what to train; its step is jitted once, and the state donated.
    state: where to start; its arrays are consumed.
    batches: the batch of a step, counted from 0: a pure function.
    steps: total of completed steps at the end.
    evaluate: figures of a state, such as `{'accuracy': 0.9}`.
    every: steps between records; by default a tenth of `steps`.
    run: folder for records and checkpoints; without it nothing is written.
    name: of this training within the run.
    best: the figure by which the best checkpoint is kept beside the last two.
    is_sound: whether a state may be saved; `sweep.any_finite` of a sweep.
    mesh: devices that share each batch, and the state too along its axis 'fsdp'; by
      default all of them share the batch alone.
    profile: first step, and the one after the last, of a trace in `run`'s profile/.
    steps_per_call: how many the device takes by itself before it turns to the host, for
      short ones on a GPU or TPU; on a CPU convolutions in such a loop are slow. What
      is left over before a record is taken one by one.

  Returns:
    The last state, and the records: dicts with 'step', 'seconds' of training since
    step 0, the step's metrics and the evaluated figures.

  Raises:
    Diverged: a step's loss, or what it left, is not finite; the last good state stays
      saved.
    InputError: a batch cannot be read, a checkpoint not be written, the memory is full.
  """
  mesh = mesh or sharding.data_mesh()
  every = every or max(1, steps // 10)
  shardings = sharding.of_state(state, mesh)
  state = sharding.put(state, shardings)
  step_fn, steps_fn = (
    jax.jit(
      function,
      donate_argnums=0,
      in_shardings=(shardings, sharding.of_batch(mesh)),
      out_shardings=(shardings, sharding.replicated(mesh)),
    )
    for function in (method.step, _in_turn(method.step))
  )
  with contextlib.ExitStack() as stack:
    checkpoints = None
    if run:
      checkpoints = stack.enter_context(Checkpoints(run.checkpoints(name)))
      state = _resume(checkpoints, run, name, state)
    records = run.records(name) if run else []
    first = int(state.step)
    watcher = stack.enter_context(watch.Watch(name, first, steps, run, profile))
    stop = stack.enter_context(processes.stop_requests())
    started = time.perf_counter() - (records[-1]['seconds'] if records else 0.0)
    under_way = collections.deque()

    def settle(most=0):
      """Waits until at most so many calls are under way; their losses are finite."""
      while len(under_way) > most:
        call, losses = under_way.popleft()
        for step, loss in zip(call, watcher.completed(call, losses), strict=True):
          if not math.isfinite(loss):
            raise Diverged(
              f'{name}: the loss is {loss} at step {step + 1}, the first such; '
              'lower the learning rate'
            )

    def keep(completed, figure=None):
      settle()
      if run and completed > first:
        with watcher.spending('save'):
          if not is_sound(state):
            raise Diverged(
              f'{name}: step {completed} left parameters that are not finite; '
              'lower the learning rate'
            )
          checkpoints.save(completed, state, figure)

    ahead = stack.enter_context(_ahead(batches, first, steps, mesh))
    stack.enter_context(watch.full_memory_explained(name))
    for call in _calls(first, steps, every, steps_per_call):
      watcher.begins(call)
      try:
        with watcher.spending('input'):
          parts = [next(ahead) for _ in call]
      except InputError:
        if jax.process_count() == 1:  # others may have read theirs, and go on
          keep(call.start)
        raise
      with watcher.spending('step'):
        if len(call) == 1:
          state, metrics = step_fn(state, *parts)
        else:
          state, metrics = steps_fn(state, parts)
      completed = call.stop
      under_way.append((call, metrics['loss']))
      settle(max(1, _IN_FLIGHT // steps_per_call))
      if completed % every == 0 or completed == steps:
        settle()
        last = {k: float(np.ravel(v)[-1]) for k, v in metrics.items()}
        record = {'step': completed, **last}
        paused = time.perf_counter()
        record['seconds'] = round(paused - started, 3)
        with watcher.spending('evaluation'):
          record |= evaluate(state) if evaluate else {}
        records.append(record)
        if run:
          run.log(name, record)
        watcher.record(record)
        keep(completed, record.get(best))
        started += time.perf_counter() - paused
      if (reason := stop()) is not None:
        keep(completed)
        raise reason
    if run:
      with watcher.spending('save'):
        checkpoints.wait()
  return state, records


def _calls(start, stop, every, most):
  """Ranges of the steps that one call takes: `most` of them, or one.

  No call holds a record but at its end, and they are the same wherever a run starts.
  """
  while start < stop:
    record = min(stop, start - start % every + every)
    is_whole = start % every % most == 0 and start + most <= record
    end = start + (most if is_whole else 1)
    yield range(start, end)
    start = end


@functools.lru_cache(maxsize=16)  # one function, so that jax.jit compiles it but once
def _in_turn(step):
  """`(state, batches) -> (state, metrics)`: a step of each, and (k,) of each figure."""

  def steps(state, batches):
    return jax.lax.scan(step, state, jax.tree.map(lambda *x: jnp.stack(x), *batches))

  return steps


@contextlib.contextmanager
def _ahead(batches, start, stop, mesh):
  """An iterator of the batches, on the devices; a `Stream` is read ahead."""
  if isinstance(batches, Stream):
    with contextlib.closing(read_ahead(batches, start, stop)) as parts:
      yield (
        _finish(batches, part, step, mesh) for step, part in enumerate(parts, start)
      )
  else:
    yield (sharding.shard_batch(batches(step), mesh) for step in range(start, stop))


def _finish(stream, part, step, mesh):
  """The whole batch of a step on all devices, of this process's rows."""
  batch = stream.finish(sharding.shard_batch(part, mesh), np.uint32(step))
  return sharding.shard_batch(batch, mesh)


class Trial(NamedTuple):
  """What one training gave.

  Attributes:
    state: the last state; None of what was not trained.
    records: see `fit`.
    logits: (N, K), of the examples that the trial is judged on.
    accuracy: on them, once, at the end; nan but where an example has one class.
  """

  state: TrainState | None
  records: list[dict]
  logits: np.ndarray
  accuracy: float

  @classmethod
  def judged(
    cls, state: TrainState | None, records: list[dict], logits: np.ndarray, on: Dataset
  ) -> 'Trial':
    """Returns the trial of these logits of the examples `on`."""
    has_one = scores.metric(on.labels) == 'accuracy'
    accuracy = scores.accuracy(logits, on.labels) if has_one else math.nan
    return cls(state, records, logits, accuracy)

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
  name: str = 'train',
  mesh: jax.sharding.Mesh | None = None,
  **options,
) -> Trial:
  """Initialises, fits and judges a method with one seed; `options` are `fit`'s.

  The 'validation' split gives the curves: of `scores.metric` and, of examples with one
  class, of InfoMax, which takes no labels. The 'test' split, where there is one, gives
  the final accuracy, of the last state.
  """
  mesh = mesh or sharding.data_mesh()
  logits, validation = predictor(method), splits['validation']

  def evaluate(state):
    outputs, labels = logits(state, validation.images), validation.labels
    metric = scores.metric(labels)
    figures = {f'validation_{metric}': scores.score(outputs, labels)}
    if metric == 'accuracy':
      figures['validation_infomax'] = validators.information(outputs)
    return figures

  with _ahead(batches, 0, 1, mesh) as ahead:
    state = begin(method, jax.random.key(seed), variables, next(ahead), mesh)
  state, records = fit(
    method,
    state,
    batches,
    steps,
    evaluate=evaluate,
    name=f'{name}-{seed}',
    mesh=mesh,
    **options,
  )
  test = judging_split(splits)
  return Trial.judged(state, records, logits(state, test.images), test)


def begin(
  method: Method,
  key: jax.Array,
  variables: Variables | None,
  batch: Batch,
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Initialises a method; where devices share the state none ever holds the whole."""
  if mesh.shape.get('fsdp', 1) == 1:
    return method.init(key, variables, batch)
  variables = sharding.put(variables, sharding.of_state(variables, mesh))
  arguments = key, variables, batch
  return sharding.in_shares(method.init, mesh, *arguments)(*arguments)


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
  test = judging_split(splits)
  logits = predictor(members)(state, test.images).swapaxes(0, 1)
  return {
    seed: Trial.judged(sweep.member(state, i, own_batches=True), [record], one, test)
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
  **options,
) -> dict[str, list[Trial]]:
  """Runs plans by seed and name, all with the same steps and on the same splits.

  `options` are `fit`'s: the mesh, the steps to profile, the figure of the best.

  Returns:
    By name, a trial a seed; in one process their states are on the host: to predict
    much by one, `jax.device_put` it first.
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
          **options,
        )
      )
    if jax.process_count() == 1:  # the next seed wants the devices' memory
      for name in named:
        last = trials[name][-1]
        trials[name][-1] = last._replace(state=jax.device_get(last.state))
  return dict(trials)


def _resume(checkpoints, run, name, state):
  found = checkpoints.latest_step() is not None
  state = checkpoints.restore(like=state) if found else state
  run.rewind(name, int(state.step) if found else 0)  # which may not be the latest
  return state
