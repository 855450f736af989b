"""Runs of several processes: how they start, agree, and stop together.

All processes run the same program. Process 0 alone writes records and reports;
checkpoints are written by all, each what its devices hold.
"""

import _thread
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from tljax.errors import InputError, Preempted

# Seconds of silence after which a process counts as dead, and the others end too; and
# those that one which ends waits for the others.
_HEARTBEAT, _SHUTDOWN = 30, 20


def start(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  heartbeat: int = _HEARTBEAT,
) -> None:
  """Joins the run's other processes, if there are any. Comes before any use of JAX.

  Without arguments it finds out from Cloud TPU, SLURM, Open MPI or a Kubernetes Job,
  as `jax.distributed.initialize` does; outside of these the run is this process alone.

  Args:
    coordinator: HOST:PORT of process 0.
    num_processes: how many there are.
    process_id: this one's, from 0.
    heartbeat: seconds of silence after which a process counts as dead.

  Raises:
    InputError: only some of the arguments are given.
  """
  given = (coordinator, num_processes, process_id)
  lone_pod = 'KUBERNETES_SERVICE_HOST' in os.environ and (
    'JOB_COMPLETION_INDEX' not in os.environ
  )
  if jax.distributed.is_initialized() or (lone_pod and given == (None,) * 3):
    return
  try:
    jax.distributed.initialize(
      *given, heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=_SHUTDOWN
    )
  except RuntimeError as error:
    if 'must be called before' not in str(error) or given != (None,) * 3:
      raise  # Such as a Kubernetes that lets no pod look around.
  except ValueError as error:  # no cluster, and not all is said
    if given != (None,) * 3:
      raise InputError(
        'give --coordinator, --processes and --process-id together'
      ) from error
  if jax.distributed.is_initialized():
    # Programs that a CPU runs ahead of the host have been seen to hang
    # (jax-ml/jax#25861); two processes, which wait for each other, did so here once.
    jax.config.update('jax_cpu_enable_async_dispatch', False)


def is_first() -> bool:
  """Whether this process is the one that writes records and reports."""
  return jax.process_index() == 0


def from_first(job: Callable[[], Any]) -> Any:
  """What process 0's job returns, a JSON value, at every process; or its InputError."""
  if jax.process_count() == 1:
    return job()
  answer = {}
  if is_first():
    try:
      answer = {'value': job()}
    except InputError as error:
      answer = {'error': str(error)}
  text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
  padded = text if is_first() else np.zeros(size, np.uint8)
  answer = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
  if 'error' in answer:
    raise InputError(answer['error'])
  return answer['value']


def from_all(value: Any) -> list:
  """The JSON values that the processes give, in their order, at every process."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(text.size))
  padded = np.pad(text, (0, sizes.max() - text.size))
  texts = multihost_utils.process_allgather(padded)
  return [
    json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)
  ]


def fetch(array: jax.Array) -> np.ndarray:
  """Returns the whole array at every process, wherever its parts are."""
  if isinstance(array, jax.Array) and not (
    array.is_fully_addressable or array.is_fully_replicated
  ):
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


Stop = Callable[[], BaseException | None]
_CALLS = itertools.count(1)  # of every training in turn: JAX wants a number that grows
_training = threading.Event()  # trainings stop by themselves


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
  """Yields `() -> KeyboardInterrupt, Preempted or None`, to ask after each step.

  An exception in the middle of a step would lose the state, which is donated to it.
  Several processes learn of any one's SIGTERM, and all stop after the same step.
  """
  received = []
  if jax.distributed.is_initialized():

    def ask():
      if multihost_utils.reached_preemption_sync_point(next(_CALLS)):
        received.append(Preempted())
      return received[0] if received else None

    _training.set()
    # JAX's own handler of SIGTERM tells all processes; an interrupt goes that way too.
    with _handlers({signal.SIGINT: lambda *_: signal.raise_signal(signal.SIGTERM)}):
      try:
        yield ask
      finally:
        if not received:  # otherwise it still saves, and leaves
          _training.clear()
    return
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

  def note(number, _):
    received.append(Preempted() if number == signal.SIGTERM else KeyboardInterrupt())
    signal.signal(number, before[number])  # a second one is obeyed

  with _handlers(dict.fromkeys(before, note)):
    yield lambda: received[0] if received else None


# JAX's handler of SIGTERM, which is not Python's, leaves its note of it at process 0.
_NOTICE, _LEFT = 'RECEIVED_PREEMPTION_NOTICE', 'tljax/left'
_POLL, _GRACE = 1, 5  # seconds


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
  """Within, any process's SIGTERM ends all of them where they are not in a training.

  The main thread is interrupted by Preempted; one that waits in C++ cannot be, such as
  for a process that has left, so its process ends without it.
  """
  if not jax.distributed.is_initialized():
    yield
    return
  done, client = threading.Event(), distributed.global_state.client

  def is_known(key):
    try:
      client.key_value_try_get(key)
    except Exception:  # JAX raises that there is none, and what ends the process anyhow
      return False
    return True

  def watch():
    while not done.wait(_POLL):
      if is_known(_LEFT) or (not _training.is_set() and is_known(_NOTICE)):
        client.key_value_set(_LEFT, 'yes', allow_overwrite=True)
        _thread.interrupt_main(signal.SIGTERM)
        break
    else:
      return
    if not done.wait(_GRACE):
      print(Preempted.line, file=sys.__stderr__, flush=True)
      try:
        jax.distributed.shutdown()  # process 0 waits for the others
      finally:
        os._exit(Preempted.status)

  threading.Thread(target=watch, daemon=True).start()
  try:
    yield
  finally:
    done.set()


@contextlib.contextmanager
def _handlers(handlers):
  """Sets handlers of signals for a while; only the main thread can."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, h) for number, h in handlers.items()}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
