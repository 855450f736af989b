"""The one exception for bad input; scripts print it as one line and exit with 2."""


class InputError(ValueError):
  """What is wrong, where, and the mend, in one line."""
