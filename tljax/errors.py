"""What scripts print as one line: bad input, status 2, and a machine taken away, 75."""


class InputError(ValueError):
  """What is wrong, where, and the mend, in one line."""


class Diverged(InputError):
  """A training's loss, or its parameters, are not finite."""


class Preempted(KeyboardInterrupt):
  """SIGTERM: what was done is saved, and the same command goes on with --resume."""

  status = 75  # EX_TEMPFAIL of sysexits.h
  line = 'preempted; what was done is saved, go on with --resume'
